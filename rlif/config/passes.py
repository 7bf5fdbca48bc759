"""Which forward pass gives the statistics that rewards read. The engine, the plan and the refusals read this table.

`TABLE` lists what TRL or vLLM computes anyway and rlif can read. The first row whose condition holds is read; where it
lacks a statistic, or no row holds, rlif runs a pass of its own. A row is not read either where the check before a run
finds its statistics inexact, for example because of dropout. The path is logged with each rollout:

    path        extra passes
    reference   0              TRL's pass of the reference model (beta above 0), for the offline annotator
    policy      0              TRL's pass for old log-probabilities: see `scored_anyway`
    vllm        0              `vllm_capture`: inside vLLM, from the logits that it samples from
    decode      0              plain `generate`: the logits of each decoding step, before the token is drawn
    pass        1              a pass of rlif's own, in eval mode: anything else
    none        0              no reward reads a statistic, and none was computed
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlif.config.defaults import LEAVE_ONE_OUT
from rlif.config.recipe import Recipe
from rlif.signals import fields_read

PassName = Literal["reference", "policy", "vllm", "decode", "pass", "none"]


@dataclass(frozen=True)
class Conditions:
    """What decides which pass is read."""

    annotator: str  # whose confidence is asked for
    scored: bool = False  # TRL runs a pass of the policy after the rollout
    reference: bool = False  # TRL runs a pass of the reference model
    captured: bool = False  # vLLM measures while it samples
    plain: bool = False  # transformers' `generate`, step by step, with whole weights on each process
    inexact: frozenset[str] = frozenset()  # rows that differ from a pass in eval mode without padding


@dataclass(frozen=True)
class Row:
    """A row of `TABLE`: when it holds, and the statistics that can be read."""

    holds: Callable[[Conditions], bool]
    gives: frozenset[str]


BEFORE_THE_TOKEN = frozenset({"mean_logprob", "entropy", "topk_confidence"})
EVERY = BEFORE_THE_TOKEN | {"logprob"}

TABLE: dict[PassName, Row] = {
    "reference": Row(lambda c: c.annotator == "offline" and c.reference, EVERY),
    "policy": Row(lambda c: c.annotator == "online" and c.scored, EVERY),
    "vllm": Row(lambda c: c.annotator == "online" and c.captured, frozenset({"mean_logprob"})),
    "decode": Row(lambda c: c.annotator == "online" and c.plain, BEFORE_THE_TOKEN),
}


@dataclass(frozen=True)
class Source:
    """Where statistics come from."""

    read: PassName | None  # the row of `TABLE` that is read; None where none holds
    path: PassName  # what is logged: `read`, or `pass` where that is not enough

    @property
    def extra(self) -> int:
        """Passes of rlif's own."""
        return int(self.path == "pass")


def which_pass(conditions: Conditions, needs: Collection[str]) -> Source:
    """Finds the pass that gives the statistics, in `TABLE`.

    Example:
        >>> which_pass(Conditions("online", plain=True), {"logprob"})
        Source(read='decode', path='pass')
    """
    read: PassName | None = next(
        (path for path, row in TABLE.items() if path not in conditions.inexact and row.holds(conditions)), None
    )
    enough = set(needs) <= (TABLE[read].gives if read else set())
    return Source(read, (read or "none") if enough else "pass")


def needs_of(rewards: Iterable[str]) -> set[str]:
    """Names the statistics that rewards read."""
    return {field.removesuffix("_BT") for name in rewards for field in fields_read(name)}


def conditions_of(recipe: Recipe, options: Mapping[str, Any], *, sharded: bool) -> Conditions:
    """Reads the conditions from a recipe. What a check of the model will find is unknown, but for adapters' dropout."""
    return Conditions(
        annotator=recipe.annotator,
        scored=scored_anyway(recipe.algorithm, options) is not None,
        reference=bool(options.get("beta")),
        captured=recipe.vllm_capture,
        plain=not (sharded or options.get("use_vllm") or options.get("use_transformers_continuous_batching")),
        inexact=frozenset({"policy", "decode"} if (recipe.lora or {}).get("lora_dropout") else ()),
    )


def scored_anyway(algorithm: str, options: Mapping[str, Any]) -> str | None:
    """Says why TRL runs a pass for the policy's log-probabilities after each rollout, as GRPOTrainer decides.

    Args:
        options: for TRL's config, gradient_accumulation_steps among them.

    Returns:
        None where TRL runs none.
    """
    if algorithm in LEAVE_ONE_OUT:
        return f"algorithm is {algorithm}"
    if options.get("use_vllm") and options.get("vllm_importance_sampling_correction", True):
        return "training.vllm_importance_sampling_correction is on"
    steps = options["gradient_accumulation_steps"]
    if steps % (options.get("steps_per_generation", steps) * options.get("num_iterations", 1)):
        return "a rollout serves more than one update"
    return None


def needs_copy(annotator: str, *, held: bool) -> bool:
    """Whether the annotator is a copy of the policy.

    Args:
        held: a reference model or adapters keep the start already.
    """
    return annotator in ("ema", "lagged") or (annotator == "offline" and not held)


def keeps_copy(recipe: Recipe) -> bool:
    """Whether a recipe's annotator is a copy of the policy."""
    return needs_copy(recipe.annotator, held=bool(recipe.resolved_training["beta"]) or recipe.lora is not None)
