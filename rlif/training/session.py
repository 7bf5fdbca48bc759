"""One trainer with what hangs beside it: the record, evaluation, the guard, the checkpoints.

A run is one session, and one more for each return of the guard to an earlier checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlif.errors import RewardError, RlifError
from rlif.guard.limits import Guard
from rlif.rewards.terms import wants_gold
from rlif.runs.checkpoints import step_of
from rlif.runs.folder import Run
from rlif.runs.rollback import healthy_step, roll_back, rollbacks, strengthened
from rlif.tasks import Task, find_task
from rlif.tasks.prompts import find_prompt
from rlif.training.prepare import Job
from rlif.training.processes import on_main
from rlif.types import Problem


@dataclass
class Session:
    """A trainer with evaluation, the display and the guard beside it.

    Attributes:
        look: evaluates at a step.
        stop: ends it at a checkpoint when a signal comes.
        last: saves the step before one that failed.
    """

    job: Job
    run: Run
    trainer: Any
    look: Callable[[int], None]
    stop: Any
    display: Any
    guard: Any
    last: Any

    def train(self, checkpoint: Path | None) -> str:
        """Trains, from a checkpoint or from the start; says whether it "ended" or "rolls back" to an earlier one.

        A checkpoint that was the last of its run, which a kill kept from being wrapped up, is looked at and not
        trained on.
        """
        if checkpoint is not None and self._ended_at(checkpoint):
            from rlif.engines.trl.setup import load_finished

            load_finished(self.trainer, checkpoint)
            if not self.guard.rolls_back:
                self.look(step_of(checkpoint))
        else:
            with self.display, self._saved_where_rewards_fail():
                self.trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return "rolls back" if self.guard.rolls_back and self.stop.agreed is None else "ended"

    def close(self) -> None:
        """Gives back what the trainer's engine holds; it samples no more."""
        from rlif.engines.trl.vllm import shut_down

        shut_down(self.trainer)

    def _ended_at(self, checkpoint: Path) -> bool:
        from transformers import TrainerState

        self.guard.recall(TrainerState.load_from_json(str(checkpoint / "trainer_state.json")))
        return step_of(checkpoint) >= self.job.plan.steps or self.guard.stopped is not None

    @contextmanager
    def _saved_where_rewards_fail(self) -> Iterator[None]:
        """A reward that cannot be given ends the run at a checkpoint of the step before."""
        try:
            yield
        except RewardError as error:
            step, resume = self.trainer.state.global_step, f"rlif train --resume {self.run.path}"
            on = f"go on with: {resume}" if self.last.save(self.trainer) else "start again"
            raise RlifError(f"{error}; stopped after step {step}; put it right and {on}") from error

    def roll_back(self, console: Any) -> Path | None:
        """Back to the last healthy checkpoint, or to the start where there is none."""

        def back() -> int:
            to, damaged = healthy_step(self.run, self.guard.healthy)
            beta = roll_back(self.run, self.job.recipe, self.guard.stopped, to)
            where = f"step {to}" if to else "the start"
            for line in (
                *damaged,
                f"guard: rolled back from step {self.guard.stopped.step} to {where};"
                f" going on with training.beta {beta:g}",
            ):
                console.print(line, highlight=False, soft_wrap=True, markup=False)
            return to

        to = on_main(back)
        return self.run.checkpoints / f"checkpoint-{to}" if to else None


def open_session(job: Job, run: Run, console: Any, stop: Any, fresh: bool) -> Session:
    """A trainer with the KL weight that the run has come to, and recording, display and the rest beside it.

    Raises:
        RlifError: it cannot be built; a run folder that was made for it (`fresh`) is removed again.
    """
    times = len(rollbacks(run))
    settings = job.recipe.guard
    if settings.policy == "rollback" and times >= settings.rollbacks:
        settings = settings.model_copy(update={"policy": "stop"})
    strong = replace(job, recipe=strengthened(job.recipe, times))
    return _attach(job, run, build(strong, run, fresh), settings, console, stop)


def build(job: Job, run: Run, fresh: bool) -> Any:
    """The engine's trainer; a run folder made for one that could not be built is removed again."""
    from accelerate import PartialState

    from rlif.engines.trl.setup import build_trainer
    from rlif.engines.trl.trainer import in_shards

    try:
        gold = job.problems if wants_gold(job.recipe) else None
        trainer = build_trainer(job.recipe, job.prompts(), job.tokenizer, str(run.checkpoints), job.task, gold)
        if job.held_out and in_shards(trainer.accelerator):
            raise RlifError(
                "evaluation on the way needs whole weights, and these are sharded; leave evaluate.tasks empty."
            )
        return trainer
    except RlifError:
        if fresh and PartialState().is_main_process:
            shutil.rmtree(run.path, ignore_errors=True)
        raise


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


def _attach(job: Job, run: Run, trainer: Any, settings: Guard, console: Any, stop: Any) -> Session:
    """Hangs recording, display and the rest beside the training steps."""
    from rlif.engines.trl import callbacks, survival
    from rlif.engines.trl.guarding import GuardState
    from rlif.engines.trl.setup import completed_rows, scored_rows

    guard = GuardState(settings, run, console, job.plan.updates_per_rollout)
    problems = {_key(prompt): problem for prompt, problem in zip(job.prompts(), job.problems, strict=True)}

    def completions() -> list[dict[str, Any]]:
        guard.see([row | {"answer": job.task.extract(row["completion"])} for row in completed_rows(trainer)])
        rows = scored_rows(trainer, job.recipe.keep_completions)
        _grade(job.task, [problems.get(_key(row["prompt"])) for row in rows], rows)
        return rows

    def extra() -> dict[str, Any]:
        return {"path": trainer.reward.path} | guard.logged

    display, last, names = callbacks.Display(console), survival.LastStep(), callbacks.Names()
    limit = job.recipe.resolved_training["save_total_limit"]
    for beside in (
        survival.FiniteGradients(),
        last,
        callbacks.Recorder(run, extra, completions),
        survival.RoomForCheckpoint(run.checkpoints),
        survival.Keep(run, limit, lambda: guard.healthy),
        display,
    ):
        trainer.add_callback(beside)
    look = _looker(job, run, trainer, names.scores)

    def tell() -> None:
        if names.scores:
            trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, {})

    def unfinished() -> bool:
        return stop.stopped(trainer.state) or guard.rolls_back

    probe = callbacks.Probe(look, job.recipe.evaluate.every, unfinished, tell)
    # Before the trackers, which show what the guard adds to a step and close when training ends.
    trainer.callback_handler.callbacks[:0] = [stop, names, guard, probe]
    return Session(job, run, trainer, look, stop, display, guard, last)


def _looker(job: Job, run: Run, trainer: Any, shown: dict[str, float]) -> Callable[[int], None]:
    """Evaluates the held-out tasks at a step, on the main process; the main scores go to `shown`, for trackers."""
    from rlif.evaluation.evaluate import evaluate
    from rlif.sampling.sampler import Decoding, TransformersSampler

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
                chat=job.recipe.chat_template,
                decoding=Decoding(min(task.protocol.max_tokens, longest), stop=task.protocol.stop),
                settings={"step": step},
            )
            run.write_evaluation(step, name, scores, scores.pop("records"))
            figures = {key: scores[key] for key in ("completion_length", "self_certainty")}
            figures["accuracy"] = scores["accuracy"]["mean"]
            shown.update({f"eval_{name}/{key}": value for key, value in figures.items() if value is not None})

    return look
