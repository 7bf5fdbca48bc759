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
import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif.config.recipe import Recipe
from rlif.config.rounds import online_recipe
from rlif.errors import DataError, RlifError
from rlif.files.atomic import finite, is_number, read_object, replace_file, write_rows, writing
from rlif.files.inside import remove
from rlif.files.jsonl import Row, read_lines
from rlif.guard.health import measure_health
from rlif.rewards.terms import reads_problems
from rlif.runs.checkpoints import prune, step_of
from rlif.runs.folder import Run
from rlif.runs.phase import Phase, Progress, finish, phases_of
from rlif.sampling.loading import load_model, model_path
from rlif.tasks.rendering import ends_of
from rlif.training.prepare import PreparedRun, prepare
from rlif.training.session import evaluate_model, grade, open_session
from rlif.types import Problem

if TYPE_CHECKING:
    from rich.console import Console

    from rlif.engines.rounds.examples import Built, Example, Round
    from rlif.engines.trl.guard_callback import GuardState
    from rlif.engines.trl.stopping import Stop

ROUND, KEPT = "round.json", "kept.jsonl"


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
        self.guard: GuardState = GuardState(self.recipe.guard, self.run, self.console, 1)
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
            tokens = self._online(phase) if name.startswith("online") else self._round(phase, int(name[-3:]))
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
        """Samples, measures and chooses; writes what the round trains on."""
        from rlif.engines.rounds import sampling
        from rlif.engines.rounds.choices import CHOICES, SAMPLERS
        from rlif.engines.rounds.examples import SAMPLES, Built, by_groups, write_examples
        from rlif.engines.rounds.given import rationalised

        whole = not (phase.folder / SAMPLES).exists()  # the time of a drawing that was resumed is not known
        model = self._first_model(number)
        if not self._is_evaluated():
            self._evaluate(model)
        started = time.perf_counter()
        round_ = self._as_round(phase, number, model)
        rows = sampling.measured(round_, SAMPLERS[self.rounds.sample](round_))
        counts: dict[str, float] = {}
        if self.rounds.rationalise:
            more, counts = rationalised(round_, rows)
            rows = [*rows, *sampling.measured(round_, more)]
        built = CHOICES[self.rounds.choose].build(round_, by_groups(rows))  # which may sample too, as a judge does
        built = Built(built.examples, built.counts | counts)
        seconds = time.perf_counter() - started
        self._refuse_nothing(number, rows, built)
        names = list(self.recipe.weights)
        facts = self._facts(number, round_, rows, built)
        facts |= {"sampling_seconds": round(seconds, 3) if whole else None}
        kept = sampling.kept_rows(round_, rows[: self.recipe.keep_completions], names)
        grade(self.prepared.task, [self._graded_by(row["problem"]) for row in kept], kept)
        with writing(phase.folder):
            write_examples(phase.folder, built.examples)
            write_rows(phase.folder / KEPT, kept)
            replace_file(phase.folder / ROUND, json.dumps(finite(facts), indent=2) + "\n")
        said = f"round {number} of {self.rounds.number}: {len(rows)} samples, {len(built.examples)} to train on"
        self.console.out(said, highlight=False)
        del model, round_
        _free()

    def _first_model(self, number: int) -> Any:
        """Loads the policy; where the first start cannot, the run folder that was made for it is removed again."""
        try:
            return self._policy()
        except RlifError:
            if self.fresh and number == 1 and not self.progress.phase:
                remove(self.run.path)
            raise

    def _as_round(self, phase: Phase, number: int, model: Any) -> Round:
        from rlif.engines.rounds.examples import Round
        from rlif.engines.rounds.sampling import token_signals
        from rlif.files.own import is_own
        from rlif.sampling.sampler import Decoding
        from rlif.selection.scorer import Scorer

        recipe, options = self.recipe, self.prepared.options
        scorer = Scorer(
            model,
            self.prepared.tokenizer,
            chat=recipe.chat_template,
            batch_size=self.rounds.batch_size,
            window=recipe.confidence_window,
            name=model_path(self._latest()),
            also=tuple(name for name in token_signals(recipe.weights) if is_own(name)),
        )
        seed = seed_of(recipe.seed, number)
        decoding = Decoding(
            options["max_completion_length"],
            temperature=options["temperature"],
            top_p=options.get("top_p", 1.0),
            n=options["num_generations"],
            seed=seed,
            ends=scorer.ends,
        )
        known = self.prepared.rewarded if reads_problems(recipe) else bare(self.prepared.problems)
        before = phase.folder.with_name(f"round-{number - 1:03d}") if number > 1 else None
        return Round(
            number,
            seed,
            phase.folder,
            recipe,
            self.prepared.task,
            self.prepared.prompt,
            problems_of(known, self.rounds.problems, number, recipe.seed),
            scorer,
            decoding,
            before,
        )

    def _refuse_nothing(self, number: int, rows: Sequence[Row], built: Built) -> None:
        if built.examples:
            return
        what = "completion to keep" if self.recipe.algorithm == "sft" else "pair, since all samples of a problem agree"
        raise DataError(
            f"round {number} found no {what} among its {len(rows)} samples ({_listed(built.counts)}); what was trained"
            " before it is kept. Take more rounds.samples, a higher training.temperature or other problems"
            f" {self.run.change_and_go_on}."
        )

    def _facts(self, number: int, round_: Round, rows: Sequence[Row], built: Built) -> dict[str, Any]:
        """Computes what is known of a round once it has chosen."""
        from rlif.engines.rounds import sampling

        known = [
            {**row, "prompt": sampling.shown_prompt(round_, row), "prompt_ids": round_.prompt_ids(row)} for row in rows
        ]
        sampled = sum(row.get("sampled", row["tokens"]) for row in rows)
        more = sum(int(value) for name, value in built.counts.items() if name.endswith("_tokens"))
        measures = {**sampling.statistics(round_, rows), **measure_health(known), **built.counts}
        every = any(name != "self_certainty" for name in sampling.token_signals(self.recipe.weights))
        return {
            "round": number,
            "examples": len(built.examples),
            "samples": len(rows),
            "sampled_tokens": sampled + more,
            "tokens": sampled + more + sum(len(row["prompt_ids"]) for row in known),
            "path": "pass" if every else "decode",
            "measures": {name: value for name, value in measures.items() if is_number(value)},
        }

    def _graded_by(self, id: str) -> Problem | None:
        if not hasattr(self, "_by_id"):
            self._by_id = {problem.id: problem for problem in self.prepared.problems}
        return self._by_id.get(id)

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

    def _online(self, phase: Phase) -> tuple[int, int]:
        """Runs an online phase; returns the tokens that it sampled, without and with prompts."""
        assert self.online is not None
        prepared = replace(self.online, recipe=self._latest_online())
        self.guard.every = prepared.plan.updates_per_rollout
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
        self.guard.every = 1
        return _completion_tokens(prepared, phase), tokens

    def _latest_online(self) -> Recipe:
        from rlif.engines.rounds.trainers import at

        assert self.online is not None and self.progress.model is not None
        return at(self.online.recipe, self.progress.model)

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


def seed_of(seed: int, number: int) -> int:
    """Returns the seed of a round: another one for each, and for each seed of a recipe."""
    return int.from_bytes(hashlib.sha256(f"{seed}/round {number}".encode()).digest()[:4]) % 2**31


def problems_of(problems: Sequence[Problem], each: int | None, number: int, seed: int) -> list[Problem]:
    """Returns the problems of a round: all, or the next ones of a shuffled pass, without a last part that is too small.

    Example:
        >>> problems = rlif.TASKS["clock"].load("train", limit=8)
        >>> rounds = [problems_of(problems, 4, number, seed=0) for number in (1, 2)]
        >>> len({problem.id for problem in rounds[0] + rounds[1]})
        8
    """
    if each is None:
        return list(problems)
    pass_, part = divmod(number - 1, len(problems) // each)
    order = list(problems)
    random.Random(f"{seed}/pass {pass_}").shuffle(order)
    return order[part * each :][:each]


def bare(problems: Sequence[Problem]) -> list[Problem]:
    """Returns problems without gold answers, solutions and columns."""
    return [replace(problem, gold=None, other_golds=(), solution=None, row={}) for problem in problems]


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


def _listed(counts: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in counts.items()) or "nothing counted"


def _free() -> None:
    """Frees the memory of a model that is not referred to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
