"""Measures every signal and grader of a rollout at once, and gives TRL one column of rewards for each.

TRL calls a `Column` for each name. The first call measures all of them. Weights, sums and metrics are TRL's; with a
normalisation, `rlif.rewards.mixing` scales the columns before TRL adds them up.

A group may straddle processes, so the rows of all processes are gathered first. Each group is measured once, by the
process that holds its first row. An error on one process is raised on all, or the others would wait for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.measuring.processes import on_all
from rlif.engines.trl.measuring.rollout import Rollout
from rlif.errors import DataError, RecipeError, RewardError
from rlif.graders import Batch
from rlif.graders.external import ENGINE
from rlif.rewards.mixing import Mixer
from rlif.rewards.terms import Term
from rlif.signals.self_certainty import token_self_certainty
from rlif.tasks import Task
from rlif.tasks.chat_template import Chat
from rlif.tasks.labels import golds_of, is_labelled
from rlif.types import ClusterTexts, Group, Problem, TokenStats

if TYPE_CHECKING:
    from rlif.engines.trl.trainer import InternalFeedback

MASKED_ROLLOUTS = 3  # in a row, with all completions truncated and masked, end the run
UNSCORED_ROLLOUTS = 10  # in a row, in which no reward with weight scored anything, end the run
GOLD_COLUMNS = ("gold", "answer", "solution")  # columns that may hold the right answer, the first that there is
Values = dict[str, list[float | None]]  # by term, one for each row


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
    labelled: bool = False  # whether its problem has a gold answer; False where no reward asks
    # by term, as measured; None where a term could not score it
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    reward: float | None = None  # the weighted sum of these; None where no term with weight could score it
    advantage: float = math.nan  # as the engine computed it

    @property
    def text(self) -> str:
        return _text(self.completion)

    @property
    def last_message(self) -> str:
        return _text(self.prompt)


class InternalReward:
    """Signals and graders, measured together once for each rollout.

    Give it as `reward_funcs` to a trainer of `rlif.trl`, or give that their names, and it makes one.

    Args:
        terms: from `rlif.rewards.terms.find_term`.
        mixer: scales and mixes them, see `rlif.rewards.mixing`.
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
        self.needs = {field.removesuffix("_BT") for term in terms for field in term.needs}
        self.__name__ = self.terms[0].name if len(self.terms) == 1 else "reward"
        self.chat: Chat | None = None  # how a recipe renders prompts; as the trainer's arguments say if left out
        self.trainer: InternalFeedback = None  # type: ignore[assignment]  # set by the trainer that is given this
        self.scored: list[ScoredCompletion] = []  # of the latest rollout, all processes, in TRL's order
        self.values: Values = {}  # its columns, as measured
        self.factors: dict[str, torch.Tensor] = {}  # of advantages, by term, [P, 1]
        self.measured, self.first = False, 0  # whether it is measured; the first row of this process
        self.path = ""
        self.masked_in_a_row = self.unscored_in_a_row = 0

    def columns(self) -> list[Column]:
        """Returns one reward function for each term."""
        return [Column(self, term.name) for term in self.terms]

    def __call__(
        self, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **columns: Any
    ) -> None:
        """Measures all terms for the completions of the latest rollout."""
        self.check_trainer(self.__name__, columns)
        rollout: Rollout = self.trainer.take_rollout()
        if [len(ids) for ids in completion_ids] != rollout.lengths:
            raise RuntimeError("the completions to reward are not the ones that were generated")
        self.path = rollout.path
        truncated = [self._truncated(ids) for ids in completion_ids]
        stats = self._stats(rollout, truncated) if rollout.fields else None
        fields = rollout.prompt_ids, rollout.completion_ids, truncated, _by_token(stats, len(truncated))
        local = [ScoredCompletion(*row) for row in zip(prompts, completions, *fields, strict=True)]
        if self.task:
            for row in local:
                row.answer = self.task.extract(row.text)

        first = self.trainer.accelerator.process_index * len(local)
        mine = on_all(lambda: self._measure_rows(local, stats, first, columns))
        self.scored = gather_object(local)
        values: Values = {name: gather_object(column) for name, column in mine.items()}
        of_groups, self.factors = self._measure_groups(self.scored, first, len(local))
        self.values, self.first, self.measured = self._without_unknown(values | of_groups), first, True

    def check_trainer(self, name: str, columns: Mapping[str, Any]) -> None:
        """Refuses the call of a trainer that this was not made for."""
        if self.trainer is None or columns.get("trainer_state", self.trainer.state) is not self.trainer.state:
            raise RecipeError(
                f"the reward {name} belongs to a trainer of rlif.trl; give a plain TRL trainer rlif.reward({name!r},"
                " model=..., tokenizer=...) instead."
            )

    def take_rewards(self, values: Values, weights: Mapping[str, float]) -> None:
        """Adds all rewards of the trainer, also those of functions, to the completions measured last."""
        for row, *numbers in zip(self.scored, *values.values(), strict=True):
            row.rewards = dict(zip(values, numbers, strict=True))
            row.reward = total(row.rewards, weights)
        if self._training:
            self._refuse_unscorable(values, weights)

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
        ends = (*self.trainer.ends, self.trainer.text_tokenizer.pad_token_id)
        return not completion_ids or completion_ids[-1] not in ends

    def _measure_rows(
        self, rows: list[ScoredCompletion], stats: TokenStats | None, first: int, columns: Mapping[str, Any]
    ) -> Values:
        """Measures the terms that read one completion at a time, and tells which rows are labelled."""
        problems = self._problems_of(rows, columns)
        for row, problem in zip(rows, problems or [], strict=bool(problems)):
            row.labelled = is_labelled(self.task, problem)
        batch = Batch(
            prompts=[row.prompt for row in rows],
            completions=[row.completion for row in rows],
            texts=[row.text for row in rows],
            completion_ids=[row.completion_ids for row in rows],
            answers=[row.answer for row in rows],
            task=self.task,
            problems=problems,
            step=self._step,
            seed=self.seed,
            first=first,
            engine={key: value for key, value in columns.items() if key != "problem" or self.problems is None},
        )
        return {
            term.name: term.measure(stats if term.kind == "token" else batch)
            for term in self.terms
            if term.kind != "group"
        }

    def _problems_of(self, rows: list[ScoredCompletion], columns: Mapping[str, Any]) -> list[Problem] | None:
        """Returns the problem of each row: of `problems`, else of the data's own columns where a term asks."""
        if self.problems is not None:
            return [self.problems[n] for n in columns["problem"]] if "problem" in columns else None
        if not any(term.reads_problems for term in self.terms):
            return None
        given = [name for name in columns if name not in ENGINE]
        needing = [term for term in self.terms if term.needs_labels]
        if needing and self._training and columns.keys().isdisjoint(GOLD_COLUMNS):  # a stream names no columns before
            raise DataError(no_gold(needing[0], ["prompt", *sorted(given)]))
        cells = next((columns[name] for name in GOLD_COLUMNS if name in columns), [None] * len(rows))
        golds = [golds_of(cell) for cell in cells]
        return [
            Problem(
                str(n),
                row.last_message,
                next(iter(golds[n]), None),
                other_golds=tuple(golds[n][1:]),
                row={name: columns[name][n] for name in given},
            )
            for n, row in enumerate(rows)
        ]

    def _stats(self, rollout: Rollout, truncated: list[bool]) -> TokenStats:
        """Collects the statistics of the rollout, without those of masked rows, whose attention TRL zeroes."""
        fields, mask_BT = rollout.of_the_model()
        if self.trainer.args.mask_truncated_completions:
            mask_BT[torch.tensor(truncated)] = False
        fields = {f"{name}_BT": values_BT for name, values_BT in fields.items()}
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

    def _without_unknown(self, values: Values) -> Values:
        """Puts None where nothing is rewarded: in rows that only vote, masked rows, and rows that a term is not for."""
        rewarded = self.rewarded or self._group
        votes = [i % self._group >= rewarded for i in range(len(self.scored))]
        masks = self.trainer.args.mask_truncated_completions
        unknown = [vote or (masks and row.truncated) for vote, row in zip(votes, self.scored, strict=True)]
        # A token signal has no statistics of masked rows. Other rewards count in the group's mean, as in TRL.
        out = {term.name: unknown if term.kind == "token" else votes for term in self.terms}
        for term in self.terms:
            taken = zip(out[term.name], self.scored, strict=True)
            out[term.name] = [no or not term.takes(row.labelled) for no, row in taken]
        return {name: [None if no else v for v, no in zip(values[name], out[name], strict=True)] for name in out}

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
        takes = {term.name for term in self.terms if any(term.takes(row.labelled) for row in self.scored)}
        weighing = [term for term in self.terms if weights[term.name] and not masked and term.name in takes]
        silent = [term for term in weighing if all(value is None for value in values[term.name])]
        known = (name for name in values if weights[name] and any(value is not None for value in values[name]))
        nothing = bool(weighing) and not any(known)
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

    def log(self, log_metric: Callable[[str, float], None], mixer: Mixer, weights: Mapping[str, float]) -> None:
        """Logs the terms by rlif's names."""
        rewarded = [row for i, row in enumerate(self.scored) if i % self._group < (self.rewarded or self._group)]
        for term in self.terms:
            column = [row.rewards[term.name] for row in rewarded]
            log_metric(term.name, mean(column))
            if len(weights) > 1:
                log_metric(f"{term.name}_spread", mixer.normalisers[term.name].spread)
                log_metric(f"{term.name}_unscorable", column.count(None) / len(column))
            if term.weight.scheduled:
                log_metric(f"{term.name}_weight", weights[term.name])
        if any(term.rows != "all" for term in self.terms):
            log_metric("labelled", sum(row.labelled for row in rewarded) / len(rewarded))
        log_metric("unscorable", [row.reward for row in rewarded].count(None) / len(rewarded))
        log_metric("reward_spread", mixer.sum_normaliser.spread)
        log_metric("extra_passes", float(self.path == "pass"))


def _text(turns: Any) -> str:
    """Returns text, or that of the last message of a conversation; a call of a tool may have none."""
    content = turns if isinstance(turns, str) else turns[-1].get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


class Column:
    """A reward function for TRL: the column of one term, which is measured with all others."""

    def __init__(self, reward: InternalReward, name: str):
        self.reward, self.__name__ = reward, name

    def __call__(self, prompts: list[Any], **columns: Any) -> list[float | None]:
        self.reward.check_trainer(self.__name__, columns)
        if not self.reward.measured:
            self.reward(prompts, **columns)
        return self.values()[self.reward.first :][: len(prompts)]

    def values(self) -> list[float | None]:
        """Returns the values of all processes' rows, as measured."""
        return self.reward.values[self.__name__]


def _by_token(stats: TokenStats | None, count: int) -> list[torch.Tensor | None]:
    """Computes self-certainty of each token of each row, where the statistics have mean_logprob."""
    if stats is None or stats.mean_logprob_BT is None:
        return [None] * count
    certainty_BT, mask_BT = token_self_certainty(stats).float().cpu(), stats.mask_BT.cpu()
    return [
        row_T[mask_T].clone() if mask_T.any() else None for row_T, mask_T in zip(certainty_BT, mask_BT, strict=True)
    ]


def no_gold(term: Term, columns: Iterable[str]) -> str:
    """Says that a data set has no column of gold answers."""
    needs = "needs" if term.gold else f"is for {term.rows} rows, which are told by"
    return (
        f"the reward {term.name} {needs} gold answers, in a column {', '.join(GOLD_COLUMNS[:-1])} or"
        f" {GOLD_COLUMNS[-1]}; the data set has {', '.join(columns)}."
    )


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Sums the known rewards by weight; None where no reward with weight is known."""
    weighing = [name for name in rewards if weights[name]]
    parts = [weights[name] * value for name in weighing if (value := rewards[name]) is not None]
    return math.fsum(parts) if parts or not weighing else None


def mean(column: Sequence[float | None]) -> float:
    """Computes the mean of the numbers in a column; NaN without any."""
    numbers = [value for value in column if value is not None]
    return sum(numbers) / len(numbers) if numbers else math.nan
