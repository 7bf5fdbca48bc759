"""A run from its recipe: problems to prompts, the engine, the run folder around it.

prepare   everything that can be checked or read before a model is loaded
train     evaluate, train, evaluate again, and leave a run folder that says what happened
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.config import Recipe
from rlif.errors import RlifError, lookup
from rlif.plan import Plan, plan_steps
from rlif.policy import load_config, load_tokenizer
from rlif.prompts import Prompt, find_prompt
from rlif.run import Run
from rlif.signals import SIGNALS
from rlif.tasks import TASKS, Task
from rlif.types import Problem


@dataclass(frozen=True)
class Job:
    """A checked recipe with its problems and tokenizer."""

    recipe: Recipe
    task: Task
    prompt: Prompt
    tokenizer: Any
    problems: list[Problem]
    too_long: int
    plan: Plan
    held_out: dict[str, list[Problem]]


def check_names(recipe: Recipe) -> tuple[Task, Prompt]:
    """The task and the prompt a recipe names, every other name looked up as well.

    Raises:
        RlifError: an unknown name; the nearest is suggested.
    """
    lookup(SIGNALS, recipe.reward, "reward")
    task = lookup(TASKS, recipe.task, "task")
    for name in (*recipe.evaluate.tasks, *recipe.evaluate.sources):
        lookup(TASKS, name, "task")
    return task, find_prompt(recipe.prompt or task.prompt)


def prepare(recipe: Recipe, processes: int = 1) -> Job:
    """Reads problems and tokenizer and checks that they make a run.

    Raises:
        RlifError: anything in the recipe, the data or the tokenizer that would stop the run.
    """
    from rlif.engines.trl_setup import check_training
    from rlif.rollout import render

    task, prompt = check_names(recipe)
    check_training(recipe, processes)
    problems = task.load(recipe.split, source=recipe.source, limit=recipe.limit, seed=recipe.seed)
    held_out = {
        name: TASKS[name].load("test", source=recipe.evaluate.sources.get(name), limit=recipe.evaluate.limit)
        for name in recipe.evaluate.tasks
    }
    load_config(recipe)
    tokenizer = load_tokenizer(recipe)
    short = [p for p in problems if len(render(tokenizer, prompt, p.text, recipe.chat)) <= recipe.max_prompt_tokens]
    if not short:
        raise RlifError(
            f"all {len(problems)} prompts are longer than max_prompt_tokens ({recipe.max_prompt_tokens}); raise it."
        )
    plan = plan_steps(recipe, len(short), processes)
    return Job(recipe, task, prompt, tokenizer, short, len(problems) - len(short), plan, held_out)


def train(recipe: Recipe, *, name: str = "run", resume: Run | None = None, console: Any = None) -> Run:
    """Trains a model as a recipe says and returns the run folder.

    Args:
        recipe: from `rlif.load_recipe`.
        name: of the run folder where the recipe gives none; numbered if taken.
        resume: go on with this run from its latest checkpoint, instead of starting one.
        console: a rich console; its own if left out.

    Raises:
        RlifError: something in the recipe, the data or the model that the user can put right.

    Example:
        >>> run = rlif.train(rlif.load_recipe("demo"))
        >>> run.summary()["evaluations"]["clock"]["after"]["accuracy"]["mean"]
        0.99
    """
    from accelerate import PartialState
    from rich.console import Console

    state = PartialState()
    console = console or Console(quiet=not state.is_main_process)
    job = prepare(recipe, state.num_processes)
    if job.too_long:
        console.print(f"{job.too_long} problems left out: prompts above {recipe.max_prompt_tokens} tokens")
    run, checkpoint = _open(job, name, resume)
    trainer = _build(job, run, fresh=resume is None)
    look = _looker(job, run, trainer)
    interrupt = _attach(job, run, trainer, look, console)

    console.print(f"run folder {run.path}", highlight=False, soft_wrap=True)
    started = time.perf_counter()
    if checkpoint is None:
        look(0)
    try:
        with interrupt:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        run.remove_torn_checkpoints()
        raise RlifError(f"the disk is full; make room and go on with: rlif train --resume {run.path}") from error
    step = trainer.state.global_step
    if interrupt.pressed and step < trainer.state.max_steps:
        go_on = f"stopped at step {step}; go on with: rlif train --resume {run.path}"
        console.print(go_on, highlight=False, soft_wrap=True)
        raise KeyboardInterrupt
    look(step)
    trainer.save_model(str(run.model))
    if state.is_main_process:
        run.write_summary(_summary(job, run, step, time.perf_counter() - started))
    state.wait_for_everyone()
    return run


def _open(job: Job, name: str, resume: Run | None) -> tuple[Run, Path | None]:
    """The run folder, the same on every process, and the checkpoint to go on from."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    main = PartialState().is_main_process
    if resume is None:
        paths = [str(Run.create(job.recipe, name).path) if main else ""]
        return Run(Path(broadcast_object_list(paths)[0])), None
    checkpoint = resume.latest_checkpoint()
    if checkpoint is None:
        raise RlifError(f"{resume.path} has no checkpoint to go on from; start again without --resume.")
    if main:
        resume.rewind(int(checkpoint.name.rpartition("-")[2]))
    return resume, checkpoint


def _build(job: Job, run: Run, fresh: bool) -> Any:
    """The engine's trainer; a run folder made for one that could not be built is removed again."""
    from rlif.engines.trl_setup import build_trainer

    render = job.prompt.messages if job.recipe.chat else job.prompt.text
    try:
        prompts = [render(problem.text) for problem in job.problems]
        return build_trainer(job.recipe, prompts, job.tokenizer, str(run.checkpoints))
    except RlifError:
        if fresh:
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _attach(job: Job, run: Run, trainer: Any, look: Callable[[int], None], console: Any) -> Any:
    """Hangs recording, display and the rest beside the training steps; returns the Ctrl-C handler."""
    from rlif.engines import callbacks
    from rlif.engines.trl_setup import scored_rows

    def completions() -> list[dict[str, Any]]:
        rows = scored_rows(trainer, job.recipe.keep_completions)
        return [row | {"answer": job.task.extract(row["completion"])} for row in rows]

    def extra() -> dict[str, Any]:
        return {"reward_spread": trainer.reward.normaliser.spread, "path": trainer.reward.path}

    interrupt = callbacks.Interrupt(console)
    trainer.add_callback(callbacks.Recorder(run, extra, completions))
    trainer.add_callback(callbacks.RoomForCheckpoint(run.checkpoints))
    trainer.add_callback(callbacks.Display(console))
    if job.recipe.evaluate.every:
        trainer.add_callback(callbacks.Probe(look, job.recipe.evaluate.every))
    trainer.add_callback(interrupt)
    return interrupt


def _looker(job: Job, run: Run, trainer: Any) -> Callable[[int], None]:
    """Evaluates the held-out tasks at a step, on the main process."""
    from rlif.evaluate import evaluate

    def look(step: int) -> None:
        if not trainer.is_world_process_zero():
            return
        model = trainer.accelerator.unwrap_model(trainer.model)
        for name, problems in job.held_out.items():
            prompt = find_prompt(job.recipe.prompt or TASKS[name].prompt)
            limit = min(TASKS[name].max_tokens, job.recipe.resolved_training["max_completion_length"])
            result = evaluate(
                model,
                job.tokenizer,
                TASKS[name],
                problems,
                prompt=prompt,
                chat=job.recipe.chat,
                max_tokens=limit,
                batch_size=job.recipe.evaluate.batch_size,
            )
            run.write_evaluation(step, name, {"step": step, **result})

    return look


def _summary(job: Job, run: Run, step: int, seconds: float) -> dict[str, Any]:
    """Before and after, of this run."""
    metrics = run.metrics()
    evaluations = {
        task: {
            when: {key: value for key, value in by_step[at].items() if key != "records"}
            for when, at in (("before", min(by_step)), ("after", max(by_step)))
        }
        for task, by_step in run.evaluations().items()
    }
    return {
        "seed": job.recipe.seed,
        "steps": step,
        "seconds": round(seconds, 1),
        "reward": job.recipe.reward,
        "path": metrics[-1]["path"] if metrics else None,
        "extra_passes": metrics[-1]["extra_passes"] if metrics else None,
        "evaluations": evaluations,
    }
