"""Joins one trainer with its callbacks: the record, evaluation, the guard, the checkpoints.

A run is one session, and one more for each return of the guard to an earlier checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif import progress
from rlif.errors import RecipeError, RewardError, RlifError
from rlif.files.atomic import is_number
from rlif.files.inside import remove
from rlif.rewards.terms import reads_problems
from rlif.runs.checkpoints import step_of
from rlif.runs.folder import Run
from rlif.runs.rollback import roll_back, rollbacks, step_to_return_to, strengthened
from rlif.tasks import Task
from rlif.tasks.prompts import find_prompt
from rlif.training.prepare import PreparedRun
from rlif.training.processes import on_main
from rlif.types import Problem

if TYPE_CHECKING:
    from rich.console import Console

    from rlif.engines.trl.callbacks import Display
    from rlif.engines.trl.checkpointing import LastStep
    from rlif.engines.trl.guard_callback import GuardState
    from rlif.engines.trl.stopping import Stop
    from rlif.engines.trl.trainer import InternalFeedback


@dataclass
class Session:
    """A trainer with evaluation, the display and the guard."""

    prepared: PreparedRun
    run: Run
    trainer: InternalFeedback
    evaluate_at: Callable[[int], None]  # evaluates the held-out tasks at a step
    stop: Stop  # ends training at a checkpoint when a signal comes
    display: Display
    guard: GuardState
    last: LastStep  # saves the step before one that failed

    def train(self, checkpoint: Path | None) -> str:
        """Trains from a checkpoint or the start; returns "ended", or "rolls back" where the guard asks for that.

        The last checkpoint of a run that was killed before its summary is evaluated and not trained further.
        """
        if checkpoint is not None and self._ended_at(checkpoint):
            from rlif.engines.trl.setup import load_finished

            load_finished(self.trainer, checkpoint)
            if not self.guard.rolls_back:
                self.evaluate_at(step_of(checkpoint))
        else:
            with self.display:
                try:
                    self.trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
                except RewardError as error:
                    raise self._saved(error) from error
        return "rolls back" if self.guard.rolls_back and self.stop.agreed is None else "ended"

    def close(self) -> None:
        """Frees the memory of the trainer's vLLM engine; the trainer cannot sample afterwards."""
        from rlif.engines.trl.vllm import shut_down

        shut_down(self.trainer)

    def _ended_at(self, checkpoint: Path) -> bool:
        from transformers import TrainerState

        self.guard.restore(TrainerState.load_from_json(str(checkpoint / "trainer_state.json")))
        return step_of(checkpoint) >= self.prepared.plan.steps or self.guard.stopped is not None

    def _saved(self, error: RewardError) -> RewardError:
        """Saves a checkpoint of the step before a failed reward; returns the error that says where things are."""
        step, details = self.trainer.state.global_step, getattr(error, "details", "")
        self.last.save(self.trainer)
        where = ""
        if details and self.trainer.is_world_process_zero():
            where = f"; its traceback is in {self.run.write_traceback(step + 1, details)}"
        return RewardError(f"{error}{where}; stopped after step {step}; put it right and {self.run.go_on}")

    def roll_back(self, console: Console) -> Path | None:
        """Returns the last healthy checkpoint, None for the start; what was logged after it is forgotten."""
        stopped = self.guard.stopped
        assert stopped is not None, "the guard rolls back after an alarm"

        def back() -> int:
            to, damaged = step_to_return_to(self.run, self.guard.healthy)
            beta = roll_back(self.run, self.prepared.recipe, stopped, to)
            where = f"step {to}" if to else "the start"
            line = f"guard: rolled back from step {stopped.step} to {where}; going on with training.beta {beta:g}"
            console.out(*damaged, line, sep="\n", highlight=False)
            return to

        to = on_main(back)
        return self.run.checkpoints / f"checkpoint-{to}" if to else None


def open_session(
    prepared: PreparedRun, run: Run, console: Console, stop: Stop, fresh: bool, guard: GuardState | None = None
) -> Session:
    """Builds a trainer with the KL weight that the run has come to, and its callbacks.

    Args:
        guard: that of the phases before, see `rlif.training.rounds`; a new one if left out.
    """
    from rlif.engines.trl.guard_callback import GuardState

    times = len(rollbacks(run))
    settings = prepared.recipe.guard
    if settings.policy == "rollback" and times >= settings.rollbacks:
        settings = settings.model_copy(update={"policy": "stop"})
    recipe = strengthened(prepared.recipe, times)
    options = prepared.options | {"beta": recipe.resolved_training["beta"]}
    strong = replace(prepared, recipe=recipe, options=options)
    guard = guard or GuardState(settings, run, console, prepared.plan.updates_per_rollout)
    return _with_callbacks(prepared, run, build(strong, run, fresh), guard, console, stop)


@progress.task("loading the model")
def build(prepared: PreparedRun, run: Run, fresh: bool) -> InternalFeedback:
    """Builds the engine's trainer; where it cannot, a run folder that was made for it (`fresh`) is removed again."""
    from accelerate import PartialState

    from rlif.engines.trl.measuring.passes import in_shards
    from rlif.engines.trl.setup import build_trainer

    try:
        recipe, task = prepared.recipe, prepared.task
        gold = prepared.rewarded if reads_problems(recipe) else None
        prompts, folder = prepared.prompts(), str(run.checkpoints)
        trainer = build_trainer(recipe, prepared.options, prompts, prepared.tokenizer, folder, task, gold)
        if prepared.held_out and in_shards(trainer.accelerator):
            raise RecipeError(
                "evaluation on the way needs whole weights, and these are sharded; leave evaluate.tasks empty."
            )
        whole = not in_shards(trainer.accelerator) and trainer.model.device.type == trainer.accelerator.device.type
        if whole:  # others cannot run before training begins, and are checked then
            trainer.verify_signal()
        return trainer
    except RlifError:
        if fresh and PartialState().is_main_process:
            remove(run.path)
        raise


def key_of_prompt(prompt: Any) -> str:
    """Returns a text that is the same for equal prompts, conversations among them."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def problems_by_prompt(prompts: Sequence[Any], problems: Sequence[Problem]) -> dict[str, Problem | None]:
    """Finds the problem of a prompt; None where problems of other golds share it, so that none of them grades it."""
    found: dict[str, Problem | None] = {}
    for prompt, problem in zip(prompts, problems, strict=True):
        known = found.setdefault(key_of_prompt(prompt), problem)
        if known is not None and known.golds != problem.golds:
            found[key_of_prompt(prompt)] = None
    return found


def write_verdicts(task: Task, problems: list[Problem | None], rows: list[dict[str, Any]]) -> None:
    """Adds problem, answer, verdict and gold to kept completions, for the record; rewards were given before.

    There is no verdict where grading would run what the model wrote.
    """
    known = [i for i, problem in enumerate(problems) if problem is not None and not task.runs_code]
    marks = task.mark([problems[i] for i in known], [rows[i]["completion"] for i in known])  # type: ignore[misc]
    right = {i: mark.right for i, mark in zip(known, marks, strict=True)}
    for i, (row, problem) in enumerate(zip(rows, problems, strict=True)):
        row["problem"] = problem.id if problem else None
        text = row["completion"]
        row["gold"] = problem.gold if problem and i in right else None
        row["answer"], row["right"] = task.answer(problem, text) if problem else task.extract(text), right.get(i)


def _with_callbacks(
    prepared: PreparedRun, run: Run, trainer: InternalFeedback, guard: GuardState, console: Console, stop: Stop
) -> Session:
    """Adds recording, evaluation, display, guard and checkpoints to a trainer's steps."""
    from rlif.engines.trl import callbacks, checkpointing
    from rlif.engines.trl.setup import completed_rows, scored_rows
    from rlif.engines.trl.stopping import FiniteGradients

    problems = problems_by_prompt(prepared.prompts(), prepared.problems)

    def completions() -> list[dict[str, Any]]:
        guard.measure([row | {"answer": prepared.task.extract(row["completion"])} for row in completed_rows(trainer)])
        rows = scored_rows(trainer, prepared.recipe.keep_completions)
        write_verdicts(prepared.task, [problems.get(key_of_prompt(row["prompt"])) for row in rows], rows)
        return rows

    display = callbacks.Display(console, list(prepared.recipe.weights))
    last, names = checkpointing.LastStep(), callbacks.MetricNames(list(prepared.recipe.weights))
    limit = prepared.recipe.resolved_training["save_total_limit"]
    for callback in (
        FiniteGradients(),
        last,
        callbacks.Recorder(run, lambda: {"path": trainer.reward.path} | guard.logged, completions),
        checkpointing.RoomForCheckpoint(run),
        checkpointing.SealCheckpoints(run, limit, lambda: guard.healthy and guard.healthy - run.before),
        display,
    ):
        trainer.add_callback(callback)
    evaluate_at = _evaluation(prepared, run, trainer, names.scores)

    def log_scores() -> None:
        if names.scores:
            trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, {})

    every = prepared.recipe.evaluate.every
    periodic = callbacks.PeriodicEvaluation(
        evaluate_at, every, lambda: stop.stopped(trainer.state) or guard.rolls_back, log_scores, run.before
    )
    # Before the trackers, which show what the guard adds to a step and close when training ends.
    trainer.callback_handler.callbacks[:0] = [stop, names, guard, periodic]
    return Session(prepared, run, trainer, evaluate_at, stop, display, guard, last)


def _evaluation(
    prepared: PreparedRun, run: Run, trainer: InternalFeedback, shown: dict[str, float]
) -> Callable[[int], None]:
    """Returns what evaluates the held-out tasks at a step; the main scores go to `shown`, for trackers."""

    def evaluate_at(step: int) -> None:
        if trainer.is_world_process_zero():
            shown.update(evaluate_model(prepared, run, trainer.accelerator.unwrap_model(trainer.model), step))

    return evaluate_at


def evaluate_model(prepared: PreparedRun, run: Run, model: Any, step: int) -> dict[str, float]:
    """Evaluates a model on the held-out tasks, for a step of the run; returns the main scores by name."""
    from rlif.evaluation.evaluate import evaluate
    from rlif.sampling.protocol import Setup
    from rlif.sampling.sampler import Decoding, TransformersSampler
    from rlif.tasks.rendering import ends_of

    chat, shown = prepared.recipe.chat_template, {}
    ends = ends_of(prepared.tokenizer, chat)
    sampler = TransformersSampler(model, prepared.tokenizer, prepared.recipe.evaluate.batch_size)
    longest = prepared.recipe.resolved_training["max_completion_length"]
    for name, problems in prepared.held_out.items():
        task = prepared.held_out_tasks[name]
        prompt = find_prompt(prepared.recipe.prompt or task.protocol.prompt)
        decoding = Decoding(min(task.protocol.max_tokens, longest), stop=task.protocol.stop, ends=ends)
        setup = Setup(prompt, chat, decoding)
        scores = evaluate(sampler, task, problems, setup, settings={"step": step + run.before})
        run.write_evaluation(step, name, scores.as_dict(), scores.records)
        figures = {
            "completion_length": scores.completion_length,
            "self_certainty": scores.self_certainty,
            "accuracy": scores.accuracy.mean,
        }
        shown |= {f"eval_{name}/{key}": value for key, value in figures.items() if is_number(value)}
    return shown
