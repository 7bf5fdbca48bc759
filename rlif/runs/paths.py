"""Makes the paths in a recipe absolute.

A run resumed from another folder then finds the same model, data and reward models, and logs them by the same names.
Hub names stay as they are. So do reward functions, `module:function`: their module is imported from the current folder,
because a run folder from elsewhere must not decide whose code runs here.
"""

from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.errors import RecipeError
from rlif.sampling.loading import SHIPPED


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe with an absolute path wherever a local file or folder exists.

    Example:
        >>> with_absolute_paths(rlif.load_recipe("demo", ["source=results/demo.json"])).source
        '/.../results/demo.json'
    """
    changes: dict[str, Any] = {"source": _absolute(recipe.source)}
    if recipe.model not in SHIPPED:
        changes["model"] = _absolute(recipe.model)
    sources = {task: _absolute(source) for task, source in recipe.evaluate.sources.items()}
    changes["evaluate"] = recipe.evaluate.model_copy(update={"sources": sources})
    if recipe.equivalence is not None:
        models = {key: _absolute(getattr(recipe.equivalence, key)) for key in ("embedding", "entailment")}
        changes["equivalence"] = recipe.equivalence.model_copy(update=models)
    if isinstance(recipe.reward, str):
        changes["reward"] = _reward(recipe.reward)
    else:
        changes["reward"] = {_reward(name): weight for name, weight in recipe.reward.items()}
        if len(changes["reward"]) < len(recipe.reward):
            raise RecipeError(f"the rewards {', '.join(recipe.reward)} name one model twice; name it once.")
    return recipe.model_copy(update=changes)


def _reward(name: str) -> str | None:
    place = _absolute(name)
    if place == name:
        return name
    from rlif.rewards.terms import kind_of  # loads torch; reading a finished run should not

    return place if kind_of(name) == "model" else name


def _absolute(name: str | None) -> str | None:
    if name is None or not Path(name).expanduser().exists():
        return name
    return str(Path(name).expanduser().resolve())
