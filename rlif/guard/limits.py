"""Defines the policy and limits of the guard, the key `guard` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from rlif.files.strict import Strict

Positive = Annotated[float | None, Field(gt=0)]
AboveOne = Annotated[float | None, Field(gt=1)]
Share = Annotated[float | None, Field(gt=0, lt=1)]


class Guard(Strict):
    """Holds the guard's policy and limits, the `guard:` of a recipe. A limit of null switches its sign off.

    The limits in multiples of the start are wide on purpose: a run that learns changes a lot. Their sources:

        kl              chosen on the development seeds of `demo-long` and `demo-collapse` (docs/log.md), whose
                        runs it tells apart; per token, so it does not grow with length
        longer          a healthy run of the paper's method grows several-fold; the offline annotator's exploitation
                        jumps (arXiv 2505.19590, Fig. 7)
        shorter         completions of seven tokens, reported for a run with beta 0; reports also use a quarter
        repetition      arXiv 1908.04319: human text 0.04, greedy loops 0.44
        compression     Whisper's limit for a failed decoding is 2.4 on short text (arXiv 2212.04356); longer text
                        compresses more, hence relative to the start
        spread          a few per cent of the reward's spread within groups remain when the reward has nothing more to
                        teach, in the experiments of docs/log.md
        pull            chosen on sixteen development runs of three bases, rewarded with self-certainty or likelihood;
                        of those that kept their accuracy it stops none too early (docs/log.md)
        goes_on         chosen on runs of a base that goes on, where 0.3 came too late; stops no run of other bases
                        that kept its accuracy, where hardly any completion goes on (docs/log.md)
        entropy_low     arXiv 2505.22617: performance is traded for entropy and saturates once entropy is spent
    """

    policy: Literal["log", "stop", "rollback"] = "log"
    """What an alarm does: it is only logged, ends the run, or returns to a healthy checkpoint."""
    start: int = Field(default=5, ge=1)
    """Observations of a sign's start."""
    window: int = Field(default=5, ge=1)
    """Observations that a reading averages."""
    patience: int = Field(default=3, ge=1)
    """Consecutive readings that raise or clear a sign."""
    strengthen: float = Field(default=3.0, gt=1)
    """rollback: the KL weight is multiplied by this."""
    rollbacks: int = Field(default=2, ge=1)
    """rollback: the run returns at most this often, then stops."""
    prompt_check: int = Field(default=8, ge=0)
    """Prompts that are completed and checked before step 1; 0 for none."""

    kl: Positive = 0.045
    """Nats per token from the start."""
    kl_slope: Positive = 0.01
    """Nats per token and logged step, over the window."""
    entropy_low: Positive = 0.05
    """Share of the start."""
    entropy_high: Positive = 2.0
    """Multiple of the start."""
    certainty: Positive = 3.0
    """Self-certainty above its start, in spreads within groups at the start."""
    longer: AboveOne = 4.0
    """Completion length, multiple of the start."""
    shorter: Share = 0.25
    """Completion length, share of the start."""
    truncated: Positive = 0.4
    """Truncated share above its start."""
    repetition: Positive = 0.2
    """Repeated 4-grams above their start, see `rlif.guard.health`."""
    compression: AboveOne = 2.0
    """Multiple of the start."""
    goes_on: Positive = 0.1
    """Share of completions that go on after their answer, above its start."""
    unanswered: Positive = 0.3
    """Share of completions without an answer, above its start."""
    same_answer: Positive = 0.4
    """Share of problems that get the commonest answer, above its start."""
    distinct: Positive = 0.02
    """Distinct answers per group; below this, groups no longer disagree."""
    pull: Positive = 0.15
    """Below its start: how often the reward prefers its group's most frequent answer, see `rlif.guard.health`."""
    prompt_use: Share = 0.5
    """Words of the problem that completions use, share of the start."""
    spread: Positive = 0.05
    """Spread of the reward within groups, share of the start."""
    grad_norm: AboveOne = 10.0
    """Multiple of the start."""
    unscorable: Positive = 0.5
    """Share of completions without a reward."""
