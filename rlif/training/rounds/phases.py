"""Runs the phases of a recipe that trains in rounds: each samples, measures, chooses and trains; then online phases.

    policy     the model of the round before, or the recipe's; evaluated before anything is sampled from it
    sample     `SAMPLERS`, resumed after a kill
    measure    the recipe's rewards, and the health of the completions for the guard
    choose     `CHOICES`; the examples are written, whole or not at all
    train      TRL's trainer, resumed from its last sealed checkpoint
    seal       the model of the phase goes to checkpoints/ of the run

Steps are counted over all phases. Each logged step of a round has what was measured of the samples it trains on.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif.config.recipe import Recipe
from rlif.config.rounds import UNREAD, online_recipe
from rlif.errors import RlifError
from rlif.files.atomic import read_object, writing
from rlif.files.inside import remove
from rlif.files.jsonl import Row, read_lines
from rlif.runs.checkpoints import prune, step_of
from rlif.runs.folder import Run
from rlif.runs.phase import Phase, Progress, finish, phases_of
from rlif.sampling.loading import load_model, model_path
from rlif.tasks.rendering import ends_of
from rlif.training.prepare import PreparedRun, prepare
from rlif.training.rounds.data import KEPT, ROUND, build_round, seed_of
from rlif.training.session import evaluate_model, open_session

if TYPE_CHECKING:
    from rich.console import Console

    from rlif.engines.rounds.examples import Example
    from rlif.engines.trl.guard_callback import GuardState
    from rlif.engines.trl.stopping import Stop


@dataclass
class Phases:
    """A run in phases."""

    prepared: PreparedRun
    run: Run
    console: Console
    stop: Stop
    fresh: bool  # whether the run folder was made for this start
    progress: Progress
    inner: Path | None  # the checkpoint to go on from within the next phase

    def __post_init__(self) -> None:
        from rlif.engines.trl.guard_callback import GuardState

        self.recipe = self.prepared.recipe
        assert self.recipe.rounds is not None
        self.rounds = self.recipe.rounds
        online = online_recipe(self.recipe)
        self.online = None if online is None else prepare(online)
        unread = UNREAD[self.recipe.algorithm] if online is None else ()
        self.guard: GuardState = GuardState(self.recipe.guard, self.run, self.console, 1, unread)
        if self.progress.model is not None:
            self.guard.restore(_state(self.progress.model))
        self.path = "decode"  # where the statistics of the latest samples come from

    def train(self) -> None:
        """Trains to the end, or to a signal.

        Raises:
            KeyboardInterrupt, Preempted: a signal; the run stands at a checkpoint.
        """
        names = phases_of(self.recipe)
        while self.progress.phase < len(names) and self.guard.stopped is None:
            if self.stop.agreed is not None:
                self.stop.at = self.progress.step
                raise self.stop.ending()
            name = names[self.progress.phase]
            phase = Phase(self.run, name, self.progress.step, self.progress.tokens)
            with writing(phase.folder):
                phase.folder.mkdir(parents=True, exist_ok=True)
            self.guard.run = phase
            tokens = (self._online if name.startswith("online") else self._round)(phase, int(name[-3:]))
            self.progress = finish(phase, self.progress, *tokens)
            self.inner = None
            limit = self.recipe.resolved_training["save_total_limit"]
            prune(self.run.checkpoints, limit, {self.guard.healthy, self.progress.step})
        if not self._is_evaluated():
            self._evaluate(self._policy())

    def check_prompts(self, check: Callable[[Any, Sequence[int]], None]) -> None:
        """Evaluates the model of the start, and gives it to the check of prompts."""
        model = self._first_model(1)
        if not self._is_evaluated():
            self._evaluate(model)
        check(model, ends_of(self.prepared.tokenizer, self.recipe.chat_template))

    def _policy(self) -> Any:
        """Loads the latest model in evaluation mode."""
        return load_model(self._latest())

    def _latest(self) -> Recipe:
        from rlif.engines.rounds.trainers import at

        return self.recipe if self.progress.model is None else at(self.recipe, self.progress.model)

    def _is_evaluated(self) -> bool:
        found = self.run.evaluations()
        return all(self.progress.step in found.get(task, {}) for task in self.prepared.held_out)

    def _evaluate(self, model: Any) -> None:
        evaluate_model(self.prepared, self.run, model, self.progress.step)

    # Rounds.

    def _round(self, phase: Phase, number: int) -> tuple[int, int]:
        """Runs a round; returns the tokens that it sampled, without and with prompts."""
        path = phase.folder / ROUND
        if not path.is_file():
            self._build(phase, number)
        facts = read_object(path)
        self.path = str(facts["path"])
        self._train_round(phase, number, facts)
        return int(facts["sampled_tokens"]), int(facts["tokens"])

    def _build(self, phase: Phase, number: int) -> None:
        """Evaluates the policy, and makes of its samples what the round trains on."""
        model = self._first_model(number)
        if not self._is_evaluated():
            self._evaluate(model)
        facts = build_round(self.prepared, phase, number, model, model_path(self._latest()))
        said = f"round {number} of {self.rounds.number}: {facts['samples']} samples, {facts['examples']} to train on"
        self.console.out(said, highlight=False)
        del model
        _free()

    def _first_model(self, number: int) -> Any:
        """Loads the policy; where the first start cannot, the run folder that was made for it is removed again."""
        try:
            return self._policy()
        except RlifError:
            if self.fresh and number == 1 and not self.progress.phase:
                remove(self.run.path)
            raise

    def _train_round(self, phase: Phase, number: int, facts: dict[str, Any]) -> None:
        """Trains on the data of a round, unless its last checkpoint is there already."""
        if self._ended():
            return
        from rlif.engines.rounds.examples import read_examples

        folders = [phase.folder]
        if self.rounds.mix and number > 1:  # the own data of the round before
            folders.insert(0, phase.folder.with_name(f"round-{number - 1:03d}"))
        trainer = self._trainer(phase, number, [example for folder in folders for example in read_examples(folder)])
        self._add_callbacks(phase, trainer, facts)
        trainer.train(resume_from_checkpoint=None if self.inner is None else str(self.inner))
        self._stop_if_asked(phase, trainer.state)
        del trainer
        _free()

    def _trainer(self, phase: Phase, number: int, examples: list[Example]) -> Any:
        from rlif.engines.rounds.trainers import build_trainer

        last = None if self.progress.model is None else str(self.progress.model)
        weights = (last if self.rounds.restart == "last" else None, last if self.rounds.reference == "last" else None)
        return build_trainer(
            self.recipe,
            self.prepared.options,
            examples,
            self.prepared.tokenizer,
            str(phase.checkpoints),
            seed_of(self.recipe.seed, number),
            weights,
        )

    def _add_callbacks(self, phase: Phase, trainer: Any, facts: dict[str, Any]) -> None:
        from rlif.engines.rounds.trainers import RoundMetrics
        from rlif.engines.trl import callbacks, checkpointing
        from rlif.engines.trl.stopping import FiniteGradients

        logged = facts["measures"] | {name: facts[name] for name in ("round", "examples", "samples", "tokens")}
        logged["sampled_tokens"] = self.progress.sampled_tokens + facts["sampled_tokens"]
        if facts["sampling_seconds"] is not None:
            logged["sampling_seconds"] = facts["sampling_seconds"]

        def kept() -> list[Row]:
            first = trainer.state.global_step == 1
            return [row for _, row in read_lines(phase.folder / KEPT)] if first and self.recipe.keep_completions else []

        def evaluate_at(step: int) -> None:
            evaluate_model(self.prepared, phase, trainer.accelerator.unwrap_model(trainer.model), step)

        limit = self.recipe.resolved_training["save_total_limit"]
        display = callbacks.Display(self.console, list(self.recipe.weights))
        every = self.recipe.evaluate.every
        for callback in (
            FiniteGradients(),
            callbacks.Recorder(phase, lambda: self.guard.logged, kept),
            checkpointing.RoomForCheckpoint(phase),
            checkpointing.SealCheckpoints(phase, limit, lambda: None),
            display,
        ):
            trainer.add_callback(callback)
        periodic = callbacks.PeriodicEvaluation(evaluate_at, every, lambda: True, lambda: None, phase.before)
        trainer.callback_handler.callbacks[:0] = [self.stop, RoundMetrics(logged), self.guard, periodic]

    # Online phases.

    def _online(self, phase: Phase, number: int) -> tuple[int, int]:
        """Runs an online phase; returns the tokens that it sampled, without and with prompts."""
        assert self.online is not None
        prepared = replace(self.online, recipe=self._latest_online(number))
        self.guard.every = self.stop.every = prepared.plan.updates_per_rollout
        session = open_session(prepared, phase, self.console, self.stop, False, self.guard)
        if not self._is_evaluated():
            session.evaluate_at(0)
        session.train(self.inner)
        self._stop_if_asked(phase, session.trainer.state)
        tokens = int(session.trainer.state.num_input_tokens_seen)
        self.path = session.trainer.reward.path or self.path
        session.close()
        del session
        _free()
        self.guard.every = self.stop.every = 1
        return _completion_tokens(prepared, phase), tokens

    def _latest_online(self, number: int) -> Recipe:
        """Returns the recipe of an online phase; each has a seed of its own, so that later ones take other problems."""
        from rlif.engines.rounds.trainers import at

        assert self.online is not None and self.progress.model is not None
        seed = self.recipe.seed if number == 1 else seed_of(self.recipe.seed, number)
        return at(self.online.recipe, self.progress.model).model_copy(update={"seed": seed})

    # Both.

    def _ended(self) -> bool:
        """Tells whether the checkpoint to go on from is the last one of its phase."""
        if self.inner is None:
            return False
        state = _state(self.inner)
        self.guard.restore(state)
        return state.global_step >= state.max_steps or self.guard.stopped is not None

    def _stop_if_asked(self, phase: Phase, state: Any) -> None:
        if self.stop.stopped(state):
            self.stop.at = phase.before + state.global_step
            raise self.stop.ending()


def _state(checkpoint: Path) -> Any:
    from transformers import TrainerState

    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def _completion_tokens(prepared: PreparedRun, phase: Phase) -> int:
    """Counts the tokens of completions that an online phase sampled, by the mean length of each rollout."""
    last = step_of(max(phase.checkpoints.glob("checkpoint-*"), key=step_of)) + phase.before
    rows = [row for row in phase.metrics() if phase.before < row["step"] <= last and "completion_length" in row]
    if not rows:
        return 0
    share = prepared.plan.completions * (last - phase.before) / prepared.plan.steps
    return round(share * sum(row["completion_length"] for row in rows) / len(rows))


def _free() -> None:
    """Frees the memory of a model that is not referred to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
