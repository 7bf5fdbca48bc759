"""Measures every signal and grader of a rollout at once, and gives TRL one column of rewards for each.

TRL calls a `Column` for each name. The first call measures all of them. Weights, sums and metrics are TRL's; with a
normalisation, `rlif.rewards.mixing` scales the columns before TRL adds them up.

A group may straddle processes, so the rows of all processes are gathered first. Each group is measured once, by the
process that holds its first row. An error on one process is raised on all, or the others would wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.measuring.processes import on_all
from rlif.engines.trl.measuring.rollout import Rollout
from rlif.errors import DataError, RecipeError, RewardError
from rlif.graders.external import ENGINE
from rlif.rewards.measuring import (
    ScoredCompletion,
    Values,
    as_group,
    batch_of,
    by_token,
    measure_groups,
    measure_rows,
    needs_of,
    reward_metrics,
    total,
    without_unknown,
)
from rlif.rewards.mixing import Mixer
from rlif.rewards.terms import Term
from rlif.tasks import Task
from rlif.tasks.chat_template import Chat
from rlif.tasks.labels import golds_of, is_labelled
from rlif.types import ClusterTexts, Problem, TokenStats

if TYPE_CHECKING:
    from rlif.engines.trl.trainer import InternalFeedback

MASKED_ROLLOUTS = 3  # in a row, with all completions truncated and masked, end the run
UNSCORED_ROLLOUTS = 10  # in a row, in which no reward with weight scored anything, end the run
GOLD_COLUMNS = ("gold", "answer", "solution")  # columns that may hold the right answer, the first that there is


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
        self.needs = needs_of(terms)
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
        fields = rollout.prompt_ids, rollout.completion_ids, truncated, by_token(stats, len(truncated))
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
        batch = batch_of(
            rows,
            task=self.task,
            problems=problems,
            step=self._step,
            seed=self.seed,
            first=first,
            engine={key: value for key, value in columns.items() if key != "problem" or self.problems is None},
        )
        return measure_rows(self.terms, stats, batch)

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
        factors = [term.name for term in self.terms if term.factor]
        if not factors and all(term.kind != "group" for term in self.terms):
            return {}, {}

        def measure() -> dict[str, list[Any]]:
            starts = [i for i in range(0, len(rows), self._group) if first <= i < first + count]
            groups = [as_group(rows[i : i + self._group], self.task, self.cluster_texts) for i in starts]
            return measure_groups(self.terms, groups, self.task)

        measured = {name: gather_object(column) for name, column in on_all(measure).items()}
        values = {term.name: list(chain(*measured[term.name])) for term in self.terms if term.kind == "group"}
        return values, {name: torch.tensor(measured[name], dtype=torch.float64).unsqueeze(1) for name in factors}

    def _without_unknown(self, values: Values) -> Values:
        """Puts None where nothing is rewarded: in rows that only vote, masked rows, and rows that a term is not for."""
        rewarded = self.rewarded or self._group
        votes = [i % self._group >= rewarded for i in range(len(self.scored))]
        masks = self.trainer.args.mask_truncated_completions
        return without_unknown(values, self.terms, self.scored, votes, masks)

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
        for name, value in reward_metrics(self.terms, rewarded, mixer, weights).items():
            log_metric(name, value)
        log_metric("extra_passes", float(self.path == "pass"))


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


def no_gold(term: Term, columns: Iterable[str]) -> str:
    """Says that a data set has no column of gold answers."""
    needs = "needs" if term.gold else f"is for {term.rows} rows, which are told by"
    return (
        f"the reward {term.name} {needs} gold answers, in a column {', '.join(GOLD_COLUMNS[:-1])} or"
        f" {GOLD_COLUMNS[-1]}; the data set has {', '.join(columns)}."
    )
