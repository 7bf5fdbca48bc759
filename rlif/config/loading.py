"""Finds, reads and checks recipes."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlif.config.defaults import PAPER_TRAINING, REUSE, set_by_rlif
from rlif.config.inheritance import lineage, merged, new_key, shipped_recipe, with_absolute_names
from rlif.config.recipe import Equivalence, Evaluation, Recipe
from rlif.config.rounds import Online, Rounds
from rlif.config.token_update import TokenUpdate
from rlif.errors import RecipeError, nearest
from rlif.files.yaml import parse_yaml
from rlif.guard.limits import Guard

TRL_OPTIONS = {*PAPER_TRAINING, *REUSE, "max_steps", "bf16", "use_vllm", "top_p", "top_k", "max_grad_norm"}


def shipped_recipes() -> dict[str, Path]:
    """Lists the recipes that come with the package, by name."""
    folder = Path(str(resources.files("rlif"))) / "recipes"
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"), key=lambda p: p.stem)}


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe and checks it, with `key=value` overrides; dots reach inside: `training.learning_rate=1e-4`.

    Args:
        recipe: name of a shipped recipe, or a path to a YAML file.
        overrides: values are read as YAML.

    Raises:
        RecipeError: no such recipe, unreadable YAML, an unknown key, a wrong type, keys that contradict each other.

    Example:
        >>> rlif.load_recipe("demo", ["seed=1"]).seed
        1
    """
    if not isinstance(recipe, str | PathLike):
        raise RecipeError(f"the recipe is {recipe!r:.40}; give the name of one that ships, or a YAML file.")
    if isinstance(overrides, str | Mapping):
        raise RecipeError(f"overrides is {overrides!r:.40}; give a list such as ['seed=1'].")
    path = find_recipe(recipe)
    values = merged(lineage(path, shipped_recipes()))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key.split() != [key]:
            raise RecipeError(f"cannot read {override!r}; overrides look like key=value.")
        target = values
        first, *inner = key.split(".")
        *parents, last = new_key(first), *inner
        for parent in parents:
            if target.get(parent) is None:
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise RecipeError(f"cannot set {key!r}: {parent!r} is a single value.")
        target[last] = parsed = parse_yaml(value, f"the value of {key}")
        if isinstance(parsed, dict) and (glued := [k for k, v in parsed.items() if v is None and ":" in str(k)]):
            raise RecipeError(f"cannot read {glued[0]!r} in {override!r}; write a space after the colon.")
    return check_recipe(with_absolute_names(values, path.parent))


def find_recipe(recipe: str | Path) -> Path:
    """Finds the file of a recipe, given by path or by the name of a shipped one."""
    if Path(recipe).is_file():
        return Path(recipe)
    return shipped_recipe(str(recipe), shipped_recipes(), f"no recipe file or shipped recipe is called {str(recipe)!r}")


def folder_name(stem: str) -> str:
    """Makes a name for a run folder from that of a recipe file."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem).lstrip("._-") or "run"


def key_of(location: Sequence[int | str]) -> str:
    """Joins the parts of a key; parts that would break a line are quoted."""
    return ".".join(str(part) if str(part).isprintable() else repr(part) for part in location)


def check_recipe(values: Mapping[str, Any]) -> Recipe:
    """Makes a recipe from plain values; each error is one sentence."""
    try:
        return Recipe.model_validate(values)
    except UnicodeEncodeError as error:
        found = error.object[error.start : error.end]
        raise RecipeError(f"the recipe has {found!r}, which is not text; write the characters themselves.") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = key_of(first["loc"])
        if first["type"] == "extra_forbidden":
            sections = {"evaluate": Evaluation, "guard": Guard, "equivalence": Equivalence}
            sections |= {"token_update": TokenUpdate, "rounds": Rounds, "online": Online}
            owner = sections.get(str(first["loc"][0]), Recipe)
            hint = nearest(str(first["loc"][-1]), owner.model_fields)
            if said := set_by_rlif(key):
                hint = f"{said}."
            elif key in TRL_OPTIONS:
                hint = f"it is an option of TRL's: write training.{key}."
            raise RecipeError(f"unknown key {key!r} in the recipe; {hint}") from None
        if first["type"] == "value_error":
            raise RecipeError(f"{first['msg'].removeprefix('Value error, ')}.") from None
        raise RecipeError(f"{key} in the recipe: {first['msg'].lower()}, found {first['input']!r:.80}.") from None
