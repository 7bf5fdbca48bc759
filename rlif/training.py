"""A run from its recipe: problems to prompts, the engine, the run folder around it.

prepare   everything that can be checked or read before a model is loaded
train     evaluate, train, evaluate again, and leave a run folder that says what happened
"""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlif.config import Recipe
from rlif.errors import RewardError, RlifError
from rlif.guard import Guard
from rlif.plan import Plan, check_annotator, plan_steps
from rlif.policy import load_config, load_tokenizer
from rlif.prompts import Prompt, find_prompt
from rlif.rollback import digest, roll_back, rollbacks, strengthened
from rlif.run import Run, step_of
from rlif.tasks import Task, find_task
from rlif.terms import check_gold, check_terms, wants_gold
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
        RlifError: an unknown name; the nearest is suggested. Rewards that contradict the rest of the recipe.
    """
    task = find_task(recipe.task)
    check_terms(recipe, task)
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
    check_gold(recipe, task, problems)
    check_annotator(recipe, load_config(recipe))
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
        resume: go on with this run from its latest checkpoint, instead of starting one.
        console: a rich console; its own if left out.

    Raises:
        RlifError: something in the recipe, the data or the model that the user can put right.

    Example:
        >>> run = rlif.train(rlif.load_recipe("demo"))
        >>> run.summary()["evaluations"]["clock"]["after"]["accuracy"]["mean"]
        0.92
    """
    from accelerate import PartialState
    from rich.console import Console

    state = PartialState()
    console = console or Console(quiet=not state.is_main_process)
    job = prepare(recipe, state.num_processes)
    if job.too_long:
        console.print(f"{job.too_long} problems left out: prompts above {recipe.max_prompt_tokens} tokens")
    checkpoint = None if resume is None else _checkpoint(job, resume)
    run = resume or _open(job, name)
    session = _begin(job, run, console, fresh=resume is None)
    console.print(f"run folder {run.path}", highlight=False, soft_wrap=True)
    started = time.perf_counter()
    if checkpoint is None:
        session.look(0)
        _check_prompts(job, session.trainer, console)
    with _disk_full_is_said(run):
        while session.train(run, checkpoint) == "rolls back":
            checkpoint = _return(job, run, session.guard, console)
            del session
            gc.collect()  # the trainer that is gone leaves its memory to the next
            session = _begin(job, run, console, fresh=False)
        trainer = session.trainer
        if session.interrupt.stopped(trainer.state):
            go_on = f"stopped at step {trainer.state.global_step}; go on with: rlif train --resume {run.path}"
            console.print(go_on, highlight=False, soft_wrap=True)
            raise KeyboardInterrupt
        trainer.save_model(str(run.model))
        if state.is_main_process:
            run.write_summary(_summary(job, run, session, time.perf_counter() - started))
    state.wait_for_everyone()
    return run


def _open(job: Job, name: str) -> Run:
    """A new run folder, the same on every process."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    paths = [str(Run.create(job.recipe, name).path) if PartialState().is_main_process else ""]
    return Run(Path(broadcast_object_list(paths)[0]))


def _checkpoint(job: Job, run: Run) -> Path:
    """The checkpoint to go on from; what was logged after it is forgotten."""
    from accelerate import PartialState

    if (run.path / "summary.json").is_file():
        raise RlifError(f"{run.path} is finished; there is nothing to go on with.")
    checkpoint = run.latest_checkpoint(before=job.plan.steps)
    if checkpoint is None:
        raise RlifError(f"{run.path} has no checkpoint to go on from; start again without --resume.")
    if PartialState().is_main_process:
        run.rewind(step_of(checkpoint))
    return checkpoint


@contextmanager
def _disk_full_is_said(run: Run) -> Iterator[None]:
    """Torch and safetensors each say in their own way that the disk is full; here it is one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if os.strerror(errno.ENOSPC) not in str(error) and shutil.disk_usage(run.path).free > 2**20:
            raise
        run.remove_torn()
        go_on = f"go on with: rlif train --resume {run.path}" if run.latest_checkpoint() else "start again"
        raise RlifError(f"the disk is full; make room and {go_on}") from error


@contextmanager
def _saved_where_rewards_fail(run: Run, trainer: Any, last: Any) -> Iterator[None]:
    """A reward that cannot be given ends the run at a checkpoint of the step before."""
    try:
        yield
    except RewardError as error:
        step = trainer.state.global_step
        on = f"go on with: rlif train --resume {run.path}" if last.save(trainer) else "start again"
        raise RlifError(f"{error}; stopped after step {step}; put it right and {on}") from error


def _build(job: Job, run: Run, fresh: bool) -> Any:
    """The engine's trainer; a run folder made for one that could not be built is removed again."""
    from rlif.engines.trl import SHARDED
    from rlif.engines.trl_setup import build_trainer

    try:
        gold = job.problems if wants_gold(job.recipe) else None
        trainer = build_trainer(job.recipe, _prompts(job), job.tokenizer, str(run.checkpoints), job.task, gold)
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


@dataclass
class Session:
    """A trainer with what hangs beside it: evaluation, the Ctrl-C handler, the display and the guard."""

    trainer: Any
    look: Callable[[int], None]
    interrupt: Any
    display: Any
    guard: Any
    last: Any

    def train(self, run: Run, checkpoint: Path | None) -> str:
        """Trains, from a checkpoint or from the start; says whether it "ended" or "rolls back" to an earlier one."""
        with self.interrupt, self.display, _saved_where_rewards_fail(run, self.trainer, self.last):
            self.trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return "rolls back" if self.guard.rolls_back and not self.interrupt.pressed else "ended"


def _begin(job: Job, run: Run, console: Any, fresh: bool) -> Session:
    """A trainer with the KL weight that the run has come to, and recording, display and the rest beside it."""
    times = len(rollbacks(run))
    job = replace(job, recipe=strengthened(job.recipe, times))
    settings = job.recipe.guard
    if settings.policy == "rollback" and times >= settings.rollbacks:
        settings = settings.model_copy(update={"policy": "stop"})
    return _attach(job, run, _build(job, run, fresh), settings, console)


def _attach(job: Job, run: Run, trainer: Any, settings: Guard, console: Any) -> Session:
    """Hangs recording, display and the rest beside the training steps."""
    from rlif.engines import callbacks
    from rlif.engines.guarding import GuardState
    from rlif.engines.trl_setup import completed_rows, scored_rows

    guard = GuardState(settings, run, console, job.plan.updates_per_rollout)
    problems = {_key(prompt): problem for prompt, problem in zip(_prompts(job), job.problems, strict=True)}

    def completions() -> list[dict[str, Any]]:
        guard.see([row | {"answer": job.task.extract(row["completion"])} for row in completed_rows(trainer)])
        rows = scored_rows(trainer, job.recipe.keep_completions)
        _grade(job.task, [problems.get(_key(row["prompt"])) for row in rows], rows)
        return rows

    def extra() -> dict[str, Any]:
        return {"path": trainer.reward.path} | guard.logged

    interrupt, display = callbacks.Interrupt(console, job.plan.updates_per_rollout), callbacks.Display(console)
    last = callbacks.LastStep()
    trainer.add_callback(last)
    trainer.add_callback(interrupt)
    trainer.add_callback(callbacks.Recorder(run, extra, completions))
    trainer.add_callback(callbacks.RoomForCheckpoint(run.checkpoints))
    trainer.add_callback(display)
    names = callbacks.Names()
    look = _looker(job, run, trainer, names.scores)

    def tell() -> None:
        if names.scores:
            trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, {})

    def unfinished() -> bool:
        return interrupt.stopped(trainer.state) or guard.rolls_back

    probe = callbacks.Probe(look, job.recipe.evaluate.every, unfinished, tell)
    # Before the trackers, which show what the guard adds to a step and close when training ends.
    trainer.callback_handler.callbacks[:0] = [names, guard, probe]
    return Session(trainer, look, interrupt, display, guard, last)


def _return(job: Job, run: Run, guard: Any, console: Any) -> Path | None:
    """Back to the last healthy checkpoint, or to the start where there is none."""
    from accelerate import PartialState

    to, state = guard.healthy or 0, PartialState()
    if state.is_main_process:
        beta = roll_back(run, job.recipe, guard.stopped, to)
        console.print(
            f"guard: rolled back from step {guard.stopped.step} to {f'step {to}' if to else 'the start'};"
            f" going on with training.beta {beta:g}",
            highlight=False,
            soft_wrap=True,
        )
    state.wait_for_everyone()
    return run.checkpoints / f"checkpoint-{to}" if to else None


def _check_prompts(job: Job, trainer: Any, console: Any) -> None:
    """Says what is wrong with prompts and stop token before a step is spent on them; sharded weights are not asked."""
    from rlif.engines.trl import SHARDED
    from rlif.prompt_check import check_prompts

    recipe, number = job.recipe, job.recipe.guard.prompt_check
    if not number or not trainer.is_world_process_zero() or trainer.accelerator.distributed_type in SHARDED:
        return
    warnings = check_prompts(
        trainer.accelerator.unwrap_model(trainer.model),
        job.tokenizer,
        job.task,
        job.problems[:number],
        prompt=job.prompt,
        chat=recipe.chat,
        max_tokens=recipe.resolved_training["max_completion_length"],
        temperature=recipe.resolved_training["temperature"],
    )
    for warning in warnings:
        console.print(f"prompt check: {warning}", highlight=False, soft_wrap=True)


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


def _summary(job: Job, run: Run, session: Session, seconds: float) -> dict[str, Any]:
    """Before and after, of this run; `seconds` is the time since it was started, or resumed."""
    evaluations = {
        task: {when: by_step[at] for when, at in (("before", min(by_step)), ("after", max(by_step)))}
        for task, by_step in run.evaluations().items()
    }
    trainer, guard = session.trainer, session.guard
    return {
        "seed": job.recipe.seed,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "reward": job.recipe.reward,
        "path": trainer.reward.path,
        "extra_passes": int(trainer.reward.path == "pass"),
        "evaluations": evaluations,
        "guard": digest(run, job.recipe.guard, guard.healthy, guard.stopped),
    }
