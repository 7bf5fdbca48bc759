"""Chooses what a round trains on. The tables of a method's three parts are here.

    SAMPLERS   how completions are drawn: from a round to rows
    CHOICES    which are kept or preferred: from the rows of each problem to examples
    LOSSES     losses that TRL's DPOTrainer lacks: a trainer class by name
    OPTIONS    the numbers of a part's own that `rounds.options` may change, with their defaults

Most choices give each sample a value, and `by_values` takes the best ones of each problem (sft), or a pair (dpo):

    surest      the recipe's reward, whatever signal or grader that is
    plurality   1 for the most frequent answer of the group, 0 for others; nothing where several are most frequent
    borda       1 for the answer that Borda voting chooses, 0 for others; the surest among equal answers
    gold        1 for a right answer, 0 for a wrong one; nothing without a gold answer
    judge       the mean score that the policy gives, see `self_rewarding`
    verified    right predictions and learnable proposals, see `deduction`

`given` (SPIN) and `soft` (Genius) make pairs of their own.

Source: Borda arXiv 2502.18581; plurality as a label arXiv 2504.16084; gold STaR, arXiv 2203.14465. A sample without an
answer is never kept by the last three, and may be rejected. To add a choice: a function of a `Round` and its groups,
and an entry in `CHOICES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlif.answers.clusters import count_equal, label
from rlif.config.recipe import Recipe
from rlif.config.rounds import options_of
from rlif.config.steps import Most
from rlif.engines.rounds import deduction, genius, self_rewarding
from rlif.engines.rounds.examples import Built, Round, by_values
from rlif.engines.rounds.given import check_comparable, check_given, check_gold, given
from rlif.engines.rounds.pairs import Value
from rlif.engines.rounds.sampling import whole
from rlif.files.jsonl import Row
from rlif.selection.rules import choose
from rlif.tasks import Task
from rlif.types import Problem

Groups = Sequence[Sequence[Row]]


@dataclass(frozen=True)
class Choice:
    """One way to choose."""

    build: Callable[[Round, list[list[Row]]], Built]
    algorithms: tuple[str, ...] = ("sft", "dpo")
    sample: str | None = None  # the only way to sample whose rows it reads; None for any that completes the problems
    check: Callable[[Recipe, Task, list[Problem]], None] | None = None  # refuses before a model is loaded


def surest(round_: Round, groups: Groups) -> Built:
    """Takes the samples of the largest reward."""
    return by_values(round_, groups, [[_value(row["reward"]) for row in group] for group in groups])


def plurality(round_: Round, groups: Groups) -> Built:
    """Takes samples with the most frequent answer of their group."""
    round_.task.compare_ahead([[row["answer"] for row in group] for group in groups])
    return by_values(round_, groups, [votes([row["answer"] for row in group], round_.task) for group in groups], 0)


def borda(round_: Round, groups: Groups) -> Built:
    """Takes samples with the answer that Borda voting chooses, the surest first."""
    round_.task.compare_ahead([[row["answer"] for row in group] for group in groups])
    return by_values(round_, groups, [_borda(round_.task, group) for group in groups], 0)


def gold(round_: Round, groups: Groups) -> Built:
    """Takes right samples; which of them is first is by chance."""
    values = [[None if row["right"] is None else (float(row["right"]),) for row in group] for group in groups]
    return by_values(round_, groups, values, 0)


def votes(answers: Sequence[str | None], task: Task) -> list[Value | None]:
    """Gives 1 to the most frequent answer, 0 to the others; None to all where several answers are most frequent.

    Example:
        >>> votes(["4", "5", "5", None], rlif.TASKS["clock"])
        [(0.0,), (1.0,), (1.0,), (0.0,)]
    """
    counts = count_equal(answers, task.equal)
    most = max(counts, default=0)
    winners = {name for name, count in zip(label(answers, task.equal), counts, strict=True) if most and count == most}
    return [(float(count == most),) if len(winners) == 1 else None for count in counts]


def _borda(task: Task, group: Sequence[Row]) -> list[Value | None]:
    answers, sure = [row["answer"] for row in group], [row["self_certainty"] for row in group]
    best, names = choose("borda", answers, sure, equal=task.equal), label(answers, task.equal)
    if best is None or names[best] is None:
        return [None] * len(group)
    return [(float(name == names[best]), -1.0 if v is None else v) for name, v in zip(names, sure, strict=True)]


def _value(number: float | None) -> Value | None:
    return None if number is None else (number,)


def _calibrated() -> Any:
    from rlif.engines.rounds.losses import CalibratedTrainer

    return CalibratedTrainer


SAMPLERS: dict[str, Callable[[Round], list[Row]]] = {
    "whole": whole,
    "foresight": genius.foresight,
    "deduction": deduction.propose_and_solve,
}
CHOICES: dict[str, Choice] = {
    "surest": Choice(surest),
    "borda": Choice(borda, check=check_comparable),
    "plurality": Choice(plurality, check=check_comparable),
    "gold": Choice(gold, sample="whole", check=check_gold),
    "judge": Choice(self_rewarding.judge, check=self_rewarding.check),
    "given": Choice(given, ("dpo",), check=check_given),
    "soft": Choice(genius.soft, ("dpo",), "foresight"),
    "verified": Choice(deduction.verified, sample="deduction", check=deduction.check),
}
LOSSES: dict[str, Callable[[], Any]] = {"calibrated": _calibrated}  # by name, a function that imports the trainer class
OPTIONS: dict[str, dict[str, Any]] = {
    "foresight": genius.OPTIONS,
    "deduction": deduction.OPTIONS,
    "judge": self_rewarding.OPTIONS,
    "calibrated": genius.OF_LOSS,
}


def most_of(recipe: Recipe) -> Most:
    """Counts what one problem gives at most: examples to train on, completions and their tokens.

    Example:
        >>> most_of(rlif.load_recipe("genius")).completions  # 2 beams x 4 rollouts x 4 steps
        32
    """
    rounds, training = recipe.rounds, recipe.resolved_training
    assert rounds is not None
    examples, completions = rounds.keep if recipe.algorithm == "sft" else 1, training["num_generations"]
    if rounds.sample == "foresight":
        how = genius.settings_of(recipe)
        completions = how.beams * how.rollouts * how.steps
        examples = how.steps if rounds.choose == "soft" else examples
    if rounds.sample == "deduction":  # a proposal, and its predictions
        examples, completions = 2 * examples, 1 + completions
    if rounds.choose == "given":
        examples = completions
    if rounds.rationalise:
        completions *= 2
    tokens = completions * training["max_completion_length"]
    if rounds.choose == "judge":
        options = options_of(recipe, self_rewarding.OPTIONS)
        judgements = completions * options["judgements"]
        completions, tokens = completions + judgements, tokens + judgements * options["judge_max_tokens"]
    return Most(examples, completions, tokens)
