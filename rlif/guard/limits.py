"""Defines the policy and limits of the guard, the key `guard` of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Guard(BaseModel):
    """The guard's policy and limits, the `guard:` of a recipe. A limit of null switches its sign off.

    The limits in multiples of the start are deliberately wide: a run that learns changes a lot. Their sources:

        kl              chosen on the development seeds of `demo` and `demo-collapse` (docs/log.md), on which it is the
                        sign that tells the two apart; per token, so it does not grow with length
        longer          a healthy run of the paper's method grows several-fold; the offline annotator's exploitation
                        jumps (arXiv 2505.19590, Fig. 7)
        shorter         completions of seven tokens, reported for a run with beta 0; a quarter is what reports use too
        repetition      arXiv 1908.04319: human text 0.04, greedy loops 0.44
        compression     Whisper's limit for a failed decoding is 2.4 on short text (arXiv 2212.04356); longer text
                        compresses more, hence relative to the start
        spread          what is left of the reward's spread within groups when there is nothing more to learn from it:
                        a few per cent in the experiments of docs/log.md
        entropy_low     arXiv 2505.22617: performance is traded for entropy and saturates where it is used up
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    policy: Literal["log", "stop", "rollback"] = "log"
    """What an alarm does: nothing but being logged, end the run, or return to a healthy checkpoint."""
    start: int = Field(default=5, ge=1)
    """Observations that make a sign's start."""
    window: int = Field(default=5, ge=1)
    """Observations that a reading averages."""
    patience: int = Field(default=3, ge=1)
    """Consecutive readings that raise or clear."""
    strengthen: float = Field(default=3.0, gt=1)
    """rollback: the KL weight is multiplied by this."""
    rollbacks: int = Field(default=2, ge=1)
    """rollback: at most so many times, then stop."""
    prompt_check: int = Field(default=8, ge=0)
    """Prompts that are completed and looked at before step 1; 0 for none."""

    kl: float | None = Field(default=0.045, gt=0)
    """Nats per token from the start."""
    kl_slope: float | None = Field(default=0.01, gt=0)
    """Nats per token and logged step, over the window."""
    entropy_low: float | None = Field(default=0.05, gt=0)
    """Share of the start."""
    entropy_high: float | None = Field(default=2.0, gt=0)
    """Multiple of the start."""
    certainty: float | None = Field(default=3.0, gt=0)
    """Self-certainty above its start, in spreads within groups at the start."""
    longer: float | None = Field(default=4.0, gt=1)
    """Completion length, multiple of the start."""
    shorter: float | None = Field(default=0.25, gt=0, lt=1)
    """Completion length, share of the start."""
    truncated: float | None = Field(default=0.4, gt=0)
    """Truncated share above its start."""
    repetition: float | None = Field(default=0.2, gt=0)
    """Repeated 4-grams above their start, see `rlif.guard.health`."""
    compression: float | None = Field(default=2.0, gt=1)
    """Multiple of the start."""
    goes_on: float | None = Field(default=0.3, gt=0)
    """Share of completions that go on after their answer, above its start."""
    unanswered: float | None = Field(default=0.3, gt=0)
    """Share of completions without an answer, above its start."""
    same_answer: float | None = Field(default=0.4, gt=0)
    """Share of problems that get the commonest answer, above its start."""
    distinct: float | None = Field(default=0.02, gt=0)
    """Distinct answers per group; below this groups no longer disagree."""
    prompt_use: float | None = Field(default=0.5, gt=0, lt=1)
    """Words of the problem that completions use, share of the start."""
    spread: float | None = Field(default=0.05, gt=0)
    """Spread of the reward within groups, share of the start."""
    grad_norm: float | None = Field(default=10.0, gt=1)
    """Multiple of the start."""
    unscorable: float | None = Field(default=0.5, gt=0)
    """Share of completions without a reward."""
