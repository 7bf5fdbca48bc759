"""What a recipe finds in the folder that it is started in, by a name that holds anywhere.

A run that is resumed from another folder has to find the same model, data and reward models again, and to log them by
the same names as before. Hub names stay what they are, and so do reward functions, `module:function`: their module is
looked for in the current folder, since a run folder that came from elsewhere must not say whose code runs here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.errors import RlifError
from rlif.sampling.loading import SHIPPED


def anchored(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths for all that is a local file or folder now.

    Raises:
        RlifError: one folder as two rewards.

    Example:
        >>> anchored(rlif.load_recipe("demo", ["source=results/demo.json"])).source
        '/.../results/demo.json'
    """
    changes: dict[str, Any] = {"source": _place(recipe.source)}
    if recipe.model not in SHIPPED:
        changes["model"] = _place(recipe.model)
    sources = {task: _place(source) for task, source in recipe.evaluate.sources.items()}
    changes["evaluate"] = recipe.evaluate.model_copy(update={"sources": sources})
    if recipe.equivalence is not None:
        models = {key: _place(getattr(recipe.equivalence, key)) for key in ("embedding", "entailment")}
        changes["equivalence"] = recipe.equivalence.model_copy(update=models)
    if isinstance(recipe.reward, str):
        changes["reward"] = _reward(recipe.reward)
    else:
        changes["reward"] = {_reward(name): weight for name, weight in recipe.reward.items()}
        if len(changes["reward"]) < len(recipe.reward):
            raise RlifError(f"the rewards {', '.join(recipe.reward)} name one model twice; name it once.")
    return recipe.model_copy(update=changes)


def _reward(name: str) -> str | None:
    place = _place(name)
    if place == name:
        return name
    from rlif.rewards.terms import kind_of  # loads torch; reading a finished run should not

    return place if kind_of(name) == "model" else name


def _place(name: str | None) -> str | None:
    if name is None or not Path(name).expanduser().exists():
        return name
    return str(Path(name).expanduser().resolve())
