"""The one reward function that TRL calls: measures every term, mixes them, keeps the scored completions.

A group may straddle processes, so the rows of all processes are gathered first. Each group is measured once, by the
process that holds its first row. An error on one process is raised on all, or the others would wait for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy
import torch
from accelerate.utils import gather_object

from rlif.engines.trl.annotator import Annotator
from rlif.errors import MachineError, RewardError, RlifError, first_line
from rlif.graders import Batch
from rlif.rewards.mixing import Mixer
from rlif.rewards.terms import Term
from rlif.rewards.time_limit import RewardFailed
from rlif.scoring.statistics import length_mask
from rlif.signals.self_certainty import token_self_certainty
from rlif.tasks import Task
from rlif.types import ClusterTexts, Group, Problem, TokenStats

if TYPE_CHECKING:
    from rlif.engines.trl.trainer import InternalFeedback

MASKED_ROLLOUTS = 3  # in a row, with all completions truncated and masked, end the run
UNSCORED_ROLLOUTS = 10  # in a row, in which no reward with weight scored anything, end the run
Result = TypeVar("Result")
Values = dict[str, list[float | None]]  # by term, one for each row


@dataclass
class Rollout:
    """The rows that this process generated last, with their statistics, until they are rewarded."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    fields: dict[str, torch.Tensor] = field(default_factory=dict)  # of TokenStats, without their _BT
    path: str = "none"

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.completion_ids]

    def every(self, n: int) -> Rollout:
        """Returns every n-th row."""
        fields = {name: values_BT[::n] for name, values_BT in self.fields.items()}
        return Rollout(self.prompt_ids[::n], self.completion_ids[::n], fields, self.path)


@dataclass
class ScoredCompletion:
    """One completion with its rewards."""

    prompt: Any
    completion: Any
    prompt_ids: list[int]
    completion_ids: list[int]
    truncated: bool
    # of length |o|, in nats, under the annotator, on the CPU; None where no pass gave it
    token_self_certainty: torch.Tensor | None = None
    answer: str | None = None
    # by term, as measured; None where a term could not score it
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    reward: float | None = None  # the weighted sum of these; None where no term with weight could score it
    advantage: float = math.nan  # as the engine computed it

    @property
    def text(self) -> str:
        return self.completion if isinstance(self.completion, str) else self.completion[-1]["content"]

    @property
    def last_message(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]


class InternalReward:
    """Signals and graders as a TRL reward function: pass it to a trainer of `rlif.engines.trl.trainer` as its
    `reward_funcs`.

    Args:
        terms: from `rlif.rewards.terms.find_term`.
        mixer: scales and mixes them, see `rlif.rewards.mixing`; the trainer must have scale_rewards="none".
        annotator: the model whose confidence token signals measure; the current policy if left out.
        task: extracts, compares and grades answers, for terms that read answers.
        problems: the data set's column `problem` gives the row in them; for terms that need gold or columns.
        cluster_texts: for semantic_entropy, see `rlif.rewards.equivalence`.
        rewarded: how many of a group are rewarded; the others only vote. All if left out.
        seed: seeds random rewards.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        mixer: Mixer | None = None,
        *,
        annotator: Annotator | None = None,
        task: Task | None = None,
        problems: Sequence[Problem] | None = None,
        cluster_texts: ClusterTexts | None = None,
        rewarded: int | None = None,
        seed: int = 0,
    ):
        self.terms, self.mixer = list(terms), mixer or Mixer([term.name for term in terms])
        self.annotator = annotator or Annotator()
        self.task, self.problems, self.cluster_texts = task, problems, cluster_texts
        self.rewarded, self.seed = rewarded, seed
        self.needs = {field.removesuffix("_BT") for term in terms for field in term.needs.split()}
        self.__name__ = self.terms[0].name if len(self.terms) == 1 else "reward"
        self.trainer: InternalFeedback = None  # type: ignore[assignment]  # set by the trainer that is given this
        self.scored: list[ScoredCompletion] = []  # of the latest rollout, all processes, in TRL's order
        self.path = ""
        self.masked_in_a_row = self.unscored_in_a_row = 0

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        rollout: Rollout = self.trainer.take_rollout()
        if [len(ids) for ids in completion_ids] != rollout.lengths:
            raise RuntimeError("the completions to reward are not the ones that were generated")
        self.path = rollout.path
        truncated = [self._truncated(ids) for ids in completion_ids]
        stats = self._stats(rollout, truncated) if rollout.fields else None
        fields = rollout.prompt_ids, rollout.completion_ids, truncated, _by_token(stats, rollout.lengths)
        local = [ScoredCompletion(*row) for row in zip(prompts, completions, *fields, strict=True)]
        if self.task:
            for row in local:
                row.answer = self.task.extract(row.text)

        first = self.trainer.accelerator.process_index * len(local)
        mine = on_all(lambda: self._measure_rows(local, stats, first, {"log_metric": log_metric, **columns}))
        rows = gather_object(local)
        values: Values = {name: gather_object(column) for name, column in mine.items()}
        of_groups, factors = self._measure_groups(rows, first, len(local))
        mixed = self._mix(rows, values | of_groups, factors)
        if log_metric is not None:
            self._log(log_metric)
        return mixed[first : first + len(local)]

    def take_advantages(self, advantages: Sequence[float]) -> None:
        """Adds their advantages to the completions rewarded last, all processes', in TRL's order."""
        for row, advantage in zip(self.scored, advantages, strict=True):
            row.advantage = advantage

    @property
    def _training(self) -> bool:
        return self.trainer.model.training

    @property
    def _group(self) -> int:
        return self.trainer.num_generations if self._training else self.trainer.num_generations_eval

    @property
    def _step(self) -> int:
        return self.trainer.state.global_step

    def _truncated(self, completion_ids: list[int]) -> bool:
        ends = (*self.trainer.ends, self.trainer.processing_class.pad_token_id)
        return not completion_ids or completion_ids[-1] not in ends

    def _measure_rows(
        self, rows: list[ScoredCompletion], stats: TokenStats | None, first: int, columns: Mapping[str, Any]
    ) -> Values:
        """Measures the terms that read one completion at a time."""
        numbers = columns.get("problem")
        batch = Batch(
            prompts=[row.prompt for row in rows],
            completions=[row.completion for row in rows],
            texts=[row.text for row in rows],
            completion_ids=[row.completion_ids for row in rows],
            answers=[row.answer for row in rows],
            task=self.task,
            problems=None if self.problems is None or numbers is None else [self.problems[n] for n in numbers],
            step=self._step,
            seed=self.seed,
            first=first,
            engine={key: value for key, value in columns.items() if key != "problem"},
        )
        return {
            term.name: term.measure(stats if term.kind == "token" else batch)
            for term in self.terms
            if term.kind != "group"
        }

    def _stats(self, rollout: Rollout, truncated: list[bool]) -> TokenStats:
        """Collects the statistics of the rollout, without those of masked rows, whose attention TRL zeroes."""
        mask_BT = length_mask(rollout.lengths, next(iter(rollout.fields.values())).device)
        if self.trainer.args.mask_truncated_completions:
            mask_BT[torch.tensor(truncated)] = False
        fields = {f"{name}_BT": values_BT for name, values_BT in rollout.fields.items()}
        return TokenStats(mask_BT, self.trainer.vocab_size, self.trainer.args.temperature, **fields)

    def _measure_groups(
        self, rows: list[ScoredCompletion], first: int, count: int
    ) -> tuple[Values, dict[str, torch.Tensor]]:
        """Measures the terms that read a group at a time, and the factors of advantages, [P, 1]."""
        signals = {term.name: term.measure for term in self.terms if term.kind == "group"}
        factors = {term.name: term.factor for term in self.terms if term.factor}
        if not signals and not factors:
            return {}, {}

        def measure() -> dict[str, list[Any]]:
            starts = [i for i in range(0, len(rows), self._group) if first <= i < first + count]
            groups = [self._as_group(rows[i : i + self._group]) for i in starts]
            if self.task and {*signals, *factors} - {"semantic_entropy"}:
                self.task.compare_ahead([group.answers for group in groups])
            return {name: [of(group) for group in groups] for name, of in (signals | factors).items()}

        measured = {name: gather_object(column) for name, column in on_all(measure).items()}
        values = {name: list(chain(*measured[name])) for name in signals}
        return values, {name: torch.tensor(measured[name], dtype=torch.float64).unsqueeze(1) for name in factors}

    def _as_group(self, rows: list[ScoredCompletion]) -> Group:
        return Group(
            prompt=rows[0].last_message,
            completions=[row.text for row in rows],
            answers=[row.answer for row in rows],
            cluster_texts=self.cluster_texts,
            **({"equal": self.task.equal} if self.task else {}),
        )

    def _mix(
        self, rows: list[ScoredCompletion], values: Values, factors: Mapping[str, torch.Tensor]
    ) -> list[float | None]:
        """Mixes one reward for each row of all processes; keeps the rows with their values in `scored`."""
        rewarded = self.rewarded or self._group
        votes = [i % self._group >= rewarded for i in range(len(rows))]  # and no more
        masks = self.trainer.args.mask_truncated_completions
        unknown = [vote or (masks and row.truncated) for vote, row in zip(votes, rows, strict=True)]
        # A token signal has no statistics of masked rows. Other rewards count in the group's mean, as in TRL.
        out = {term.name: unknown if term.kind == "token" else votes for term in self.terms}
        values = {name: [None if no else v for v, no in zip(values[name], out[name], strict=True)] for name in out}
        weights = {term.name: term.weight.at(self._step) for term in self.terms}
        for row, *numbers in zip(rows, *values.values(), strict=True):
            row.rewards = dict(zip(values, numbers, strict=True))
            row.reward = total(row.rewards, weights)
        self.scored = rows
        if self._training:
            self._refuse_unscorable(values, weights)
        grids = {  # None becomes NaN
            name: torch.from_numpy(numpy.array(column, dtype=float)).view(-1, self._group)
            for name, column in values.items()
        }
        mixed_PG = self.mixer(grids, weights, factors, learn=self._training)
        return [None if math.isnan(x) else x for x in mixed_PG.flatten().tolist()]

    def _refuse_unscorable(self, values: Values, weights: Mapping[str, float]) -> None:
        """Raises `RewardError` where there is nothing to learn from.

        In small batches all completions may be truncated and masked by TRL, but not `MASKED_ROLLOUTS` times in a row.
        A reward may know some rows of mixed data only. So a rollout in which none is scored is passed over, but not
        `UNSCORED_ROLLOUTS` in a row. A signal of tokens scores whatever has tokens, and gets no such patience.
        """
        count = len(self.scored)
        masked = self.trainer.args.mask_truncated_completions and all(row.truncated for row in self.scored)
        self.masked_in_a_row = self.masked_in_a_row + 1 if masked else 0
        if self.masked_in_a_row == MASKED_ROLLOUTS:
            raise RewardError(
                f"all completions of {MASKED_ROLLOUTS} rollouts in a row were truncated, and"
                " training.mask_truncated_completions leaves those out, so there is nothing to learn from; raise"
                " training.max_completion_length"
            )
        weighing = [term for term in self.terms if weights[term.name] and not masked]
        silent = [term for term in weighing if all(value is None for value in values[term.name])]
        nothing = bool(weighing) and len(silent) == len(weighing)
        self.unscored_in_a_row = self.unscored_in_a_row + 1 if nothing else 0
        for term in silent:
            if term.kind != "token" and self.unscored_in_a_row < UNSCORED_ROLLOUTS:
                continue
            if term.kind == "group" and self.cluster_texts is None and self.task is not None:
                why = f"task {self.task.name} finds an answer in none of them, so there is nothing to compare"
            elif term.kind == "token":
                why = "they have no tokens, or no finite statistics"
            else:
                why = "it gave None for each"
            rollouts = "a rollout" if term.kind == "token" else f"each of {UNSCORED_ROLLOUTS} rollouts in a row"
            raise RewardError(
                f"the reward {term.name} could score none of the {count} completions of {rollouts}: {why}"
            )

    def _log(self, log_metric: Callable[[str, float], None]) -> None:
        rewarded = [row for i, row in enumerate(self.scored) if i % self._group < (self.rewarded or self._group)]
        for term in self.terms:
            column = [row.rewards[term.name] for row in rewarded]
            log_metric(term.name, mean(column))
            if len(self.terms) > 1:
                log_metric(f"{term.name}_spread", self.mixer.normalisers[term.name].spread)
                log_metric(f"{term.name}_unscorable", column.count(None) / len(column))
            if term.weight.scheduled:
                log_metric(f"{term.name}_weight", term.weight.at(self._step))
        log_metric("unscorable", [row.reward for row in rewarded].count(None) / len(rewarded))
        log_metric("reward_spread", self.mixer.sum_normaliser.spread)
        log_metric("extra_passes", float(self.path == "pass"))


def on_all(work: Callable[[], Result], failed: Callable[[str, str], RlifError] = RewardFailed) -> Result:
    """Runs `work` on every process; an error on one is raised on all.

    Args:
        failed: makes the error of a sentence and a traceback, which may be empty.
    """
    failure: Exception | None = None
    found: list[tuple[str, str | None]] = []  # a sentence and its traceback, None for a mistake in this package
    try:
        result = work()
    except RlifError as error:
        failure, found = error, [(str(error), getattr(error, "details", ""))]
    except Exception as error:  # whatever it is, the other processes would wait for ever without it
        reason = f"{type(error).__name__}: {first_line(error)}"
        failure, found = error, [(f"another process of this run failed ({reason}); see its log", None)]
    errors = gather_object(found)
    if not errors:
        return result  # type: ignore[possibly-unbound]
    if failure is not None and not isinstance(failure, RlifError):
        raise failure
    for sentence, details in errors:
        if details is None:
            raise MachineError(sentence)
    raise failed(*errors[0]) from failure


def _by_token(stats: TokenStats | None, lengths: list[int]) -> list[torch.Tensor | None]:
    """Computes self-certainty of each token of each row, where the statistics have mean_logprob."""
    if stats is None or stats.mean_logprob_BT is None:
        return [None] * len(lengths)
    certainty_BT, known_B = token_self_certainty(stats).float().cpu(), stats.mask_BT.any(1).tolist()
    rows = zip(certainty_BT, lengths, known_B, strict=True)
    return [row_T[:length].clone() if known else None for row_T, length, known in rows]


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Sums the known rewards by weight; None where no reward with weight is known."""
    weighing = [name for name in rewards if weights[name]]
    parts = [weights[name] * value for name in weighing if (value := rewards[name]) is not None]
    return math.fsum(parts) if parts or not weighing else None


def mean(column: Sequence[float | None]) -> float:
    """Computes the mean of the numbers in a column; NaN without any."""
    numbers = [value for value in column if value is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan
