"""Makes the paths in a recipe absolute.

A run resumed from another folder then finds the same model, data and reward models, and logs them by the same names.
Hub names stay as they are. So does code of one's own by dotted path, `module:function`: the module is imported from the
current folder. Files of code have absolute paths since the recipe was read. A run folder from elsewhere must not decide
whose code runs here, so `check_code` refuses to resume with files outside the current folder and Python's path. A
prompt of one's own is spelled out in the run folder, which then needs no file.
"""

from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.config.rounds import recipes_of
from rlif.errors import RecipeError
from rlif.files import own
from rlif.sampling.sources import NAMED, SHIPPED
from rlif.tasks import absolute_task
from rlif.tasks.prompts import spelled_out


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe with an absolute path wherever a local file or folder exists.

    Example:
        >>> with_absolute_paths(rlif.load_recipe("demo", ["source=results/demo.json"])).source
        '/.../results/demo.json'
    """
    changes: dict[str, Any] = {"source": _absolute(recipe.source)}
    if recipe.model not in {*SHIPPED, *NAMED}:
        changes["model"] = _absolute(recipe.model)
    sources = {task: _absolute(source) for task, source in recipe.evaluate.sources.items()}
    changes["evaluate"] = recipe.evaluate.model_copy(update={"sources": sources})
    if recipe.prompt is not None:
        changes["prompt"] = spelled_out(recipe.prompt)
    if recipe.equivalence is not None:
        models = {key: _absolute(getattr(recipe.equivalence, key)) for key in ("embedding", "entailment")}
        changes["equivalence"] = recipe.equivalence.model_copy(update=models)
    changes["reward"] = _rewards(recipe.reward)
    if recipe.online is not None and recipe.online.reward is not None:
        changes["online"] = recipe.online.model_copy(update={"reward": _rewards(recipe.online.reward)})
    return recipe.model_copy(update=changes)


def code_of(recipe: Recipe) -> list[str]:
    """Names the code of one's own that a recipe runs: its rewards and tasks."""
    tasks = [absolute_task(name, Path.cwd()) for name in (recipe.task, *recipe.evaluate.tasks)]
    rewards = [name for each in recipes_of(recipe) for name in each.weights]
    functions = [name for name in rewards if "." in name and "/" not in name]  # without a colon
    return [name for name in dict.fromkeys([*rewards, *tasks]) if own.is_own(name) or name in functions]


def check_code(recipe: Recipe, run: Path) -> None:
    """Refuses code that came with a run folder, or that lies outside the current folder and Python's path."""
    prompt = [recipe.prompt] if isinstance(recipe.prompt, str) and own.is_own(recipe.prompt) else []
    for name in (*code_of(recipe), *prompt):  # a prompt of one's own is spelled out in a run folder of ours
        own.check_from_run(name, run)


def _rewards(reward: Any) -> Any:
    if isinstance(reward, str):
        return _reward(reward)
    found = {_reward(name): weight for name, weight in reward.items()}
    if len(found) < len(reward):
        raise RecipeError(f"the rewards {', '.join(reward)} name one model twice; name it once.")
    return found


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
