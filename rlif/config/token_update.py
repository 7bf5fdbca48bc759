"""The keys of a recipe that change the update of single tokens: `token_update` and `mask_answer`.

Let A be the advantage of a token's completion, l its log-probability, and cov = (A - mean A) (l - mean l), the means
over the tokens of a forward pass. Tokens of large cov lower the entropy most (arXiv 2505.22617). The paper's values are
the defaults.

    kl_cov      adds coefficient * |l - l_old| to the loss of the `share` of tokens of largest cov. l_old is that of
                the policy that sampled, so it acts from the second update of a rollout on
    clip_cov    a random `share` of the tokens, among those with cov within `bounds`, have no policy gradient

Watch: authors' code gives kl_cov's share in percent (0.2), verl as a fraction (0.0002). Here it is a fraction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from rlif.config.defaults import BY_TOKEN, LEAVE_ONE_OUT
from rlif.files.strict import Strict

if TYPE_CHECKING:
    from rlif.config.recipe import Recipe

SHARES = {"kl_cov": 2e-3, "clip_cov": 2e-4}


class TokenUpdate(Strict):
    """Weakens the update of a few tokens."""

    kind: Literal["kl_cov", "clip_cov"]
    """A penalty (kl_cov), or no policy gradient (clip_cov)."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Of the tokens of a forward pass, but at least one: a fraction, by default 0.002 (kl_cov) or 0.0002 (clip_cov)."""
    coefficient: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """kl_cov: the weight of the penalty."""
    bounds: tuple[float, float] = (1.0, 5.0)
    """clip_cov: the covariances between which tokens are drawn."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sound(self) -> TokenUpdate:
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"token_update.bounds is {list(self.bounds)}; the first must be below the second")
        other = {"kl_cov": "bounds", "clip_cov": "coefficient"}[self.kind]
        if getattr(self, other) != type(self).model_fields[other].default:
            raise ValueError(f"token_update.{other} has no meaning for {self.kind}; leave it out")
        return self

    @property
    def resolved_share(self) -> float:
        """The share, also where the recipe leaves it out."""
        return self.share or SHARES[self.kind]


def check_by_token(recipe: Recipe) -> None:
    """Refuses a loss in which the update of single tokens cannot be changed.

    Raises:
        ValueError: it weighs whole completions, or is a form whose weights of tokens are not known here.
    """
    training = recipe.resolved_training
    if recipe.algorithm in LEAVE_ONE_OUT:
        why = f"algorithm {recipe.algorithm} weighs whole completions; use grpo, dr_grpo, dapo or bnpo"
    elif training.get("importance_sampling_level", "token") != "token":
        why = "importance_sampling_level sequence (gspo) has one ratio for a completion; use grpo"
    elif training["loss_type"] not in BY_TOKEN:
        why = f"training.loss_type is {training['loss_type']!r}; use {', '.join(BY_TOKEN[:-1])} or {BY_TOKEN[-1]}"
    elif training.get("use_liger_kernel"):
        why = "training.use_liger_kernel may compute the loss elsewhere; leave it out"
    else:
        return
    key = "mask_answer" if recipe.token_update is None else f"token_update {recipe.token_update.kind}"
    raise ValueError(f"{key} changes the update of single tokens, but {why}")
