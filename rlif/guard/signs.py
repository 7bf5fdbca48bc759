"""Defines the signs that the guard watches: what each reads, its usual cause and what to try.

A sign compares the reading of a logged metric with its start; the limits are the recipe's, see
`rlif.guard.limits.Guard`. Policies act on an `alarm`. A `warning` is only logged: healthy runs raise it as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["alarm", "warning"]


@dataclass(frozen=True)
class Reading:
    """Holds a metric now and at its start, and computes the numbers that are compared with limits."""

    value: float  # mean of the last observations
    start: float  # mean of the first ones
    recent: tuple[float, ...]  # the last observations, oldest first
    spread: float | None  # of the reward within groups, at the start; None where it is not logged

    def level(self) -> float:
        return self.value

    def rise(self) -> float:
        return self.value - self.start

    def fall(self) -> float:
        return self.start - self.value

    def ratio(self) -> float:
        return self.value / self.start if self.start > 0 else 1.0

    def spreads(self) -> float:
        return (self.value - self.start) / self.spread if self.spread else 0.0

    def slope(self) -> float:
        """Least squares, per observation."""
        middle = (len(self.recent) - 1) / 2
        weight = sum((i - middle) ** 2 for i in range(len(self.recent)))
        return sum((i - middle) * value for i, value in enumerate(self.recent)) / weight if weight else 0.0


@dataclass(frozen=True)
class Sign:
    """Describes a sign."""

    metric: str  # what is read
    compare: Callable[[Reading], float]  # computes the number that is compared with the limit
    beyond: int  # +1 where more than the limit is bad, -1 where less is
    severity: Severity
    seen: str  # the message, a format of `value`, `reading`, `start` and `limit`
    cause: str
    remedy: str


SIGNS: dict[str, Sign] = {
    "kl": Sign(
        "kl", Reading.level, +1, "alarm",
        "KL to the start is {value:.3g} nats per token, above {limit:g}",
        "the policy has gone further than its confidence can be trusted: learning rate too high or beta too low",
        "a lower training.learning_rate, a larger training.beta, normalisation group_std_floor",
    ),
    "kl_slope": Sign(
        "kl", Reading.slope, +1, "alarm",
        "KL to the start grows by {value:.3g} nats per token and step, above {limit:g}",
        "the policy diverges: learning rate too high or beta too low",
        "a lower training.learning_rate, a larger training.beta, more warm-up",
    ),
    "entropy_low": Sign(
        "entropy", Reading.ratio, -1, "warning",
        "entropy is {reading:.3g} nats, {value:.1%} of its start ({start:.3g})",
        "sampling hardly explores",
        "stop here, or raise training.beta or the temperature",
    ),
    "entropy_high": Sign(
        "entropy", Reading.ratio, +1, "alarm",
        "entropy is {reading:.3g} nats, {value:.1f} times its start ({start:.3g})",
        "the policy diverges: learning rate too high",
        "a lower training.learning_rate, a smaller training.max_grad_norm",
    ),
    "certainty": Sign(
        "self_certainty", Reading.spreads, +1, "warning",
        "self-certainty is {reading:.3g}, {value:.1f} spreads above its start ({start:.3g})",
        "far surer than any completion at the start; healthy runs get there too, collapsing ones sooner",
        "read completions and the other signs; a larger training.beta",
    ),
    "longer": Sign(
        "completion_length", Reading.ratio, +1, "alarm",
        "completions have {reading:.0f} tokens, {value:.1f} times those of the start ({start:.0f})",
        "text that adds nothing earns confidence: a second problem, a loop, an ending that is never sampled",
        "check the stop token and the prompt, annotator online, a larger training.beta",
    ),
    "shorter": Sign(
        "completion_length", Reading.ratio, -1, "alarm",
        "completions have {reading:.1f} tokens, {value:.0%} of those of the start ({start:.0f})",
        "short certain answers crowd out reasoning, as reported for runs without KL",
        "a larger training.beta, a lower training.learning_rate, a prompt that asks for steps",
    ),
    "truncated": Sign(
        "truncated", Reading.rise, +1, "alarm",
        "{reading:.0%} of completions are truncated, {start:.0%} at the start",
        "completions stop ending: the ending costs confidence, or the limit is too low for what was learned",
        "check the stop token, a larger training.beta, a larger training.max_completion_length",
    ),
    "repetition": Sign(
        "repetition", Reading.rise, +1, "alarm",
        "{reading:.0%} of 4-grams are repeated, {start:.0%} at the start",
        "loops are certain, and certainty is the reward",
        "a lower training.learning_rate, a larger training.beta, annotator online",
    ),
    "compression": Sign(
        "compression", Reading.ratio, +1, "alarm",
        "completions compress {reading:.1f}-fold, {value:.1f} times as well as at the start",
        "loops or one repeated character",
        "a lower training.learning_rate, a larger training.beta, annotator online",
    ),
    "goes_on": Sign(
        "goes_on", Reading.rise, +1, "alarm",
        "{reading:.0%} of completions go on after their answer or open a new problem, {start:.0%} at the start",
        "nothing ends a completion at its answer, and an easy extra problem is certain",
        "a stop token that matches the chat template, a prompt that says to stop after the answer, annotator online",
    ),
    "unanswered": Sign(
        "unanswered", Reading.rise, +1, "alarm",
        "{reading:.0%} of completions have no answer, {start:.0%} at the start",
        "the form of the task is lost",
        "a lower training.learning_rate, a larger training.beta; read completions",
    ),
    "same_answer": Sign(
        "same_answer", Reading.rise, +1, "alarm",
        "{reading:.0%} of problems get the same answer, {start:.0%} at the start",
        "one answer is certain for every problem",
        "a larger training.beta, more problems_per_update",
    ),
    "distinct": Sign(
        "distinct", Reading.level, -1, "warning",
        "groups agree with themselves: {value:.1%} of their answers differ",
        "completions of a group no longer differ, or all problems get the same answer",
        "stop here; more training.num_generations or a higher temperature for more variety; harder problems",
    ),
    "pull": Sign(
        "pull", Reading.fall, +1, "alarm",
        "the reward prefers its group's most frequent answer in {reading:.0%} of pairs, {start:.0%} at the start",
        "the reward no longer prefers what the model mostly answers",
        "use an earlier checkpoint; normalisation group_std_floor, a lower training.learning_rate, reward likelihood",
    ),
    "prompt_use": Sign(
        "prompt_use", Reading.ratio, -1, "alarm",
        "completions use {reading:.0%} of their problem's words, {start:.0%} at the start",
        "completions are no longer about their problem",
        "a larger training.beta, a lower training.learning_rate; read completions",
    ),
    "spread": Sign(
        "reward_spread", Reading.ratio, -1, "alarm",
        "the spread of the reward within groups is {value:.1%} of its start",
        "all completions are equally sure, so only noise is rewarded; training on leads to collapse",
        "take the model as it is; more training.num_generations, harder problems, normalisation group_std_floor",
    ),
    "grad_norm": Sign(
        "grad_norm", Reading.ratio, +1, "warning",
        "the gradient norm is {reading:.3g}, {value:.1f} times its start ({start:.3g})",
        "a few completions dominate the update, or the policy diverges",
        "a smaller training.max_grad_norm, a lower training.learning_rate",
    ),
    "unscorable": Sign(
        "unscorable", Reading.level, +1, "alarm",
        "{reading:.0%} of completions have no reward",
        "empty or masked truncated completions, or values that are not finite",
        "a larger training.max_completion_length; check the stop token",
    ),
}  # fmt: skip
NON_FINITE = Sign(
    "", Reading.level, +1, "alarm",
    "{names} is not finite",
    "numbers overflowed: learning rate too high, or too little precision",
    "a lower training.learning_rate, training.bf16 instead of fp16, a smaller training.max_grad_norm",
)  # fmt: skip
