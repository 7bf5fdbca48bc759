"""A run from its recipe: problems to prompts, the engine, the run folder around it.

prepare   everything that can be checked or read before a model is loaded
train     evaluate, train, evaluate again, and leave a run folder that says what happened
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif import beginning
from rlif.checkpoints import step_of
from rlif.config import Recipe
from rlif.errors import RlifError, lookup
from rlif.faults import said
from rlif.lock import locked
from rlif.plan import Plan, plan_steps
from rlif.policy import load_config, load_tokenizer, model_path
from rlif.prompts import Prompt, find_prompt
from rlif.run import Run, environment
from rlif.signals import NEEDS, SIGNALS
from rlif.tasks import Task, find_task
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
        RlifError: an unknown name; the nearest is suggested. A reward whose statistics the engine does not offer.
    """
    from rlif.engines.trl import OFFERED

    lookup(SIGNALS, recipe.reward, "reward")
    if NEEDS[recipe.reward] not in OFFERED:
        usable = ", ".join(name for name in SIGNALS if NEEDS[name] in OFFERED)
        raise RlifError(
            f"the reward {recipe.reward} reads {NEEDS[recipe.reward]}, which training does not offer (it scores samples"
            f" with rlif score and rlif select); train with {usable}."
        )
    task = find_task(recipe.task)
    for name in (*recipe.evaluate.tasks, *recipe.evaluate.sources):
        find_task(name)
    return task, find_prompt(recipe.prompt or task.protocol.prompt)


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
        name: find_task(name).load("test", source=recipe.evaluate.sources.get(name), limit=recipe.evaluate.limit)
        for name in recipe.evaluate.tasks
    }
    load_config(recipe)
    tokenizer = load_tokenizer(recipe)
    short = [p for p in problems if len(render(tokenizer, prompt, p.text, recipe.chat)) <= recipe.max_prompt_tokens]
    if not all(render(tokenizer, prompt, p.text, recipe.chat) for p in short[:1]):
        raise RlifError(
            f"the tokenizer of {recipe.model!r} makes no tokens of the first prompt; is it the model's own?"
        )
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
        resume: go on with this run from its latest good checkpoint, or from the start if it has none yet.
        console: a rich console; its own if left out.

    Raises:
        RlifError: something in the recipe, the data, the model or the machine that the user can put right.
        KeyboardInterrupt: Ctrl-C; the run stands at a checkpoint.
        Preempted: SIGTERM or SIGUSR1; the run stands at a checkpoint.

    Example:
        >>> run = rlif.train(rlif.load_recipe("demo"))
        >>> run.summary()["evaluations"]["clock"]["after"]["accuracy"]["mean"]
        0.92
    """
    import torch
    from accelerate import PartialState
    from rich.console import Console

    from rlif.engines.survival import Stop

    # Without being told, accelerate takes each of several processes on a machine without accelerator for the only one.
    on_cpu = recipe.resolved_training.get("use_cpu", False) or not torch.accelerator.is_available()
    state = PartialState(cpu=on_cpu)
    console = console or Console(quiet=not state.is_main_process)
    if resume is not None and (resume.path / "summary.json").is_file():
        raise RlifError(f"{resume.path} is finished; there is nothing to go on with.")
    job = prepare(recipe, state.num_processes)
    if job.too_long:
        console.print(f"{job.too_long} problems left out: prompts above {recipe.max_prompt_tokens} tokens")
    stop = Stop(console, job.plan.updates_per_rollout)
    with ExitStack() as held:
        run, checkpoint, notes = _on_main(lambda: _begin(job, name, resume, held))
        held.enter_context(stop)
        for note in notes:
            console.print(note, highlight=False, soft_wrap=True, markup=False)
        _run(job, run, checkpoint, console, stop, fresh=resume is None)
    return run


def _begin(job: Job, name: str, resume: Run | None, held: ExitStack) -> tuple[Run, Path | None, list[str]]:
    """The locked run folder, the checkpoint to go on from (what was logged after it is forgotten), and what to say."""
    facts = beginning.facts(job.problems, job.held_out, model_path(job.recipe))
    if resume is None:
        run = Run.create(job.recipe, name)
        held.enter_context(locked(run.path))
        run.write_begun(facts)
        return run, None, []
    held.enter_context(locked(resume.path))
    problems = f"the problems of {job.recipe.task} ({job.recipe.source or 'its own source'}, {job.recipe.split})"
    named = {"problems": problems, "model": f"the model {job.recipe.model}"}
    beginning.check(resume.begun(), facts, resume.path, named)
    if others := beginning.differences(resume.environment(), environment()):
        held_apart = "; the run goes on, but not as if nothing had happened"
        others = [f"not what it was started with: {', '.join(others)}{held_apart}"]
    checkpoint, damaged = resume.good_checkpoint()
    step = 0 if checkpoint is None else step_of(checkpoint)
    resume.rewind(step)
    resume.write_begun(facts)
    from_where = "from the start, it had no checkpoint yet" if checkpoint is None else f"from {checkpoint.name}"
    return resume, checkpoint, [*others, *damaged, f"going on {from_where}"]


def _on_main(action: Callable[[], Any]) -> Any:
    """What the main process got, or its RlifError, on every process: none is left waiting for the others."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            outcome[0] = action()
        except RlifError as error:
            outcome[1] = str(error)
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise RlifError(outcome[1])
    return outcome[0]


def _run(job: Job, run: Run, checkpoint: Path | None, console: Any, stop: Any, fresh: bool) -> None:
    """Trains in a run folder, from a checkpoint if there is one, to the end or to a signal."""
    from accelerate import PartialState

    from rlif.engines.trl_setup import load_finished

    state = PartialState()
    trainer = _build(job, run, fresh)
    look, display = _attach(job, run, trainer, console, stop)
    console.print(f"run folder {run.path}", highlight=False, soft_wrap=True, markup=False)
    started = time.perf_counter()
    with said(run, state.num_processes):
        if checkpoint is None:
            look(0)
        if checkpoint is not None and step_of(checkpoint) >= job.plan.steps:
            load_finished(trainer, str(checkpoint))
            look(step_of(checkpoint))
        else:
            with display:
                trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        if stop.stopped(trainer.state):
            go_on = f"stopped at step {trainer.state.global_step}; go on with: rlif train --resume {run.path}"
            console.print(go_on, highlight=False, soft_wrap=True, markup=False)
            raise stop.ending()
        _save_model(run, trainer)
        if state.is_main_process:
            run.write_summary(_summary(job, run, trainer, time.perf_counter() - started))
    state.wait_for_everyone()


def _save_model(run: Run, trainer: Any) -> None:
    """The trained model, as a whole folder or not at all."""
    from accelerate import PartialState

    draft = run.path / ".model.draft"
    trainer.save_model(str(draft))
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        shutil.rmtree(run.model, ignore_errors=True)
        draft.rename(run.model)


def _build(job: Job, run: Run, fresh: bool) -> Any:
    """The engine's trainer; a run folder made for one that could not be built is removed again."""
    from rlif.engines.trl import SHARDED
    from rlif.engines.trl_setup import build_trainer

    try:
        trainer = build_trainer(job.recipe, _prompts(job), job.tokenizer, str(run.checkpoints))
        if job.held_out and trainer.accelerator.distributed_type in SHARDED:
            raise RlifError(
                "evaluation on the way needs whole weights, and these are sharded; leave evaluate.tasks empty."
            )
        return trainer
    except RlifError:
        if fresh:
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _prompts(job: Job) -> list[Any]:
    """What the trainer gets of the problems: conversations or texts, and nothing else."""
    render = job.prompt.messages if job.recipe.chat else job.prompt.text
    return [render(problem.text) for problem in job.problems]


def _key(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def _grade(task: Task, problems: list[Problem | None], rows: list[dict[str, Any]]) -> None:
    """Adds problem, answer and verdict to kept completions: for the record, long after the rewards were given.

    Where grading means running what the model wrote, there is no verdict.
    """
    known = [i for i, problem in enumerate(problems) if problem is not None and not task.runs_code]
    marks = task.mark([problems[i] for i in known], [rows[i]["completion"] for i in known])  # type: ignore[misc]
    right = {i: mark.right for i, mark in zip(known, marks, strict=True)}
    for i, (row, problem) in enumerate(zip(rows, problems, strict=True)):
        row["problem"] = problem.id if problem else None
        row["answer"], row["right"] = task.extract(row["completion"]), right.get(i)


def _attach(job: Job, run: Run, trainer: Any, console: Any, stop: Any) -> tuple[Callable[[int], None], Any]:
    """Hangs recording, display and the rest beside the training steps.

    Returns:
        what evaluates at a step, and the display.
    """
    from rlif.engines import callbacks, survival
    from rlif.engines.trl_setup import scored_rows

    problems = {_key(prompt): problem for prompt, problem in zip(_prompts(job), job.problems, strict=True)}

    def completions() -> list[dict[str, Any]]:
        rows = scored_rows(trainer, job.recipe.keep_completions)
        _grade(job.task, [problems.get(_key(row["prompt"])) for row in rows], rows)
        return rows

    def extra() -> dict[str, Any]:
        return {"path": trainer.reward.path}

    display = callbacks.Display(console)
    trainer.add_callback(survival.FiniteGradients())
    trainer.add_callback(callbacks.Recorder(run, extra, completions))
    trainer.add_callback(survival.RoomForCheckpoint(run.checkpoints))
    trainer.add_callback(survival.Keep(run.checkpoints, job.recipe.resolved_training["save_total_limit"]))
    trainer.add_callback(display)
    names = callbacks.Names()
    look = _looker(job, run, trainer, names.scores)

    def tell() -> None:
        if names.scores:
            trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, {})

    probe = callbacks.Probe(look, job.recipe.evaluate.every, lambda: stop.stopped(trainer.state), tell)
    trainer.callback_handler.callbacks[:0] = [stop, names, probe]  # before the trackers, which close when training ends
    return look, display


def _looker(job: Job, run: Run, trainer: Any, shown: dict[str, float]) -> Callable[[int], None]:
    """Evaluates the held-out tasks at a step, on the main process; the main scores go to `shown`, for trackers."""
    from rlif.evaluate import evaluate
    from rlif.rollout import Decoding, TransformersSampler

    def look(step: int) -> None:
        if not trainer.is_world_process_zero():
            return
        model = trainer.accelerator.unwrap_model(trainer.model)
        sampler = TransformersSampler(model, job.tokenizer, job.recipe.evaluate.batch_size)
        longest = job.recipe.resolved_training["max_completion_length"]
        for name, problems in job.held_out.items():
            task = find_task(name)
            scores = evaluate(
                sampler,
                task,
                problems,
                prompt=find_prompt(job.recipe.prompt or task.protocol.prompt),
                chat=job.recipe.chat,
                decoding=Decoding(min(task.protocol.max_tokens, longest), stop=task.protocol.stop),
                settings={"step": step},
            )
            run.write_evaluation(step, name, scores, scores.pop("records"))
            figures = {key: scores[key] for key in ("completion_length", "self_certainty")}
            figures["accuracy"] = scores["accuracy"]["mean"]
            shown.update({f"eval_{name}/{key}": value for key, value in figures.items() if value is not None})

    return look


def _summary(job: Job, run: Run, trainer: Any, seconds: float) -> dict[str, Any]:
    """Before and after, of this run; `seconds` is the time since it was started, or resumed."""
    evaluations = {
        task: {when: by_step[at] for when, at in (("before", min(by_step)), ("after", max(by_step)))}
        for task, by_step in run.evaluations().items()
    }
    path = [trainer.reward.path, *(row["path"] for row in run.metrics() if "path" in row)][-1]
    return {
        "seed": job.recipe.seed,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "reward": job.recipe.reward,
        "path": path,
        "extra_passes": int(path == "pass"),
        "evaluations": evaluations,
    }
