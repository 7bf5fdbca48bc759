"""Chooses what a round trains on. The tables of a method's three parts are here.

    SAMPLERS   how completions are drawn: from a round to rows
    CHOICES    which are kept or preferred: from the rows of each problem to examples
    LOSSES     losses that TRL's DPOTrainer lacks: a trainer class by name

Most choices give each sample a value, and `by_values` takes the best ones of each problem (sft), or a pair (dpo):

    surest      the recipe's reward, whatever signal or grader that is
    plurality   1 for the most frequent answer of the group, 0 for others; nothing where several are most frequent
    borda       1 for the answer that Borda voting chooses, 0 for others; the surest among equal answers
    gold        1 for a right answer, 0 for a wrong one; nothing without a gold answer
    judge       the mean score that the policy gives, see `self_rewarding`
    verified    right predictions and learnable proposals, see `deduction`

`given` (SPIN) and `soft` (Genius) make pairs of their own.

Source: Borda arXiv 2502.18581; plurality as a label arXiv 2504.16084; gold STaR, arXiv 2203.14465. A sample without an
answer is never kept by plurality, borda and gold, and may be rejected. To add a choice: a function of a `Round` and its
groups, and an entry in `CHOICES`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlif.answers.clusters import count_equal, label
from rlif.config.recipe import Recipe
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
class Sampler:
    """One way to draw the completions of a round."""

    draw: Callable[[Round], list[Row]]
    completions: Callable[[Recipe], int]  # of one problem, at most
    choices: tuple[str, ...] | None = None  # the only ones that read its rows; None for any
    options: Mapping[str, Any] = field(default_factory=dict)  # of `rounds.options`, with their defaults
    check: Callable[[Recipe], object] | None = None  # refuses a recipe, without data


@dataclass(frozen=True)
class Choice:
    """One way to choose."""

    build: Callable[[Round, list[list[Row]]], Built]
    algorithms: tuple[str, ...] = ("sft", "dpo")
    sample: str | None = None  # the only sampler whose rows it reads; None for any that completes the problems
    check: Callable[[Recipe, Task, list[Problem]], None] | None = None  # refuses before a model is loaded
    alone: tuple[str, ...] = ()  # algorithms that one sample of a problem is enough for
    valued: bool = True  # both members of a pair have a value
    most: Callable[[Recipe, Most], Most] | None = None  # what a problem gives, where that is not one example or `keep`
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """A loss of pairs that TRL's DPOTrainer lacks. It weighs a pair by its values."""

    trainer: Callable[[], Any]  # imports its class
    options: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Recipe], object] | None = None


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


def _of_group(recipe: Recipe) -> int:
    count: int = recipe.resolved_training["num_generations"]
    return count


def _of_given(recipe: Recipe, most: Most) -> Most:
    return replace(most, examples=most.completions)


def _of_both_parts(recipe: Recipe, most: Most) -> Most:
    return replace(most, examples=2 * most.examples)  # of the proposal, and of its predictions


SAMPLERS = {
    "whole": Sampler(whole, _of_group),
    "foresight": Sampler(
        genius.foresight,
        lambda recipe: genius.settings_of(recipe).candidates,
        options=genius.OPTIONS,
        check=genius.settings_of,
    ),
    "deduction": Sampler(
        deduction.propose_and_solve,
        lambda recipe: 1 + _of_group(recipe),  # a proposal, and its predictions
        choices=("verified",),
        options=deduction.OPTIONS,
    ),
}
CHOICES = {
    "surest": Choice(surest),
    "borda": Choice(borda, check=check_comparable),
    "plurality": Choice(plurality, check=check_comparable),
    "gold": Choice(gold, sample="whole", check=check_gold, alone=("sft",)),
    "judge": Choice(
        self_rewarding.judge,
        check=self_rewarding.check,
        alone=("sft",),
        most=self_rewarding.most,
        options=self_rewarding.OPTIONS,
    ),
    "given": Choice(given, ("dpo",), check=check_given, alone=("dpo",), valued=False, most=_of_given),
    "soft": Choice(genius.soft, ("dpo",), "foresight", most=genius.most),
    "verified": Choice(deduction.verified, sample="deduction", check=deduction.check, most=_of_both_parts),
}
LOSSES = {"calibrated": Loss(_calibrated, genius.OF_LOSS, genius.alpha_of)}


def most_of(recipe: Recipe) -> Most:
    """Counts what one problem gives at most: examples to train on, completions and their tokens.

    Example:
        >>> most_of(rlif.load_recipe("genius")).completions  # 2 beams x 4 rollouts x 4 steps
        32
    """
    rounds, tokens = recipe.rounds, recipe.resolved_training["max_completion_length"]
    assert rounds is not None
    sampler, choice = SAMPLERS[rounds.sample], CHOICES[rounds.choose]
    completions = sampler.completions(recipe) * (2 if rounds.rationalise else 1)
    most = Most(rounds.keep if recipe.algorithm == "sft" else 1, completions, completions * tokens)
    return most if choice.most is None else choice.most(recipe, most)
