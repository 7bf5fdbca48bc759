"""Old names of recipe keys and rewards. They go on working: the new name is taken and logged in one line."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from rlif.errors import RecipeError
from rlif.signals import RENAMED as RENAMED_SIGNALS

RENAMED_KEYS = {"meaning": "equivalence"}


def with_new_names(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces old names in the values of a recipe.

    Example:
        >>> with_new_names({"reward": "self_certainty", "meaning": None})
        {'reward': 'self_certainty', 'equivalence': None}
    """
    values = _renamed(recipe, RENAMED_KEYS, "key")
    reward = values.get("reward")
    if isinstance(reward, str):
        values["reward"] = next(iter(_renamed({reward: None}, RENAMED_SIGNALS, "reward")))
    elif isinstance(reward, Mapping):
        values["reward"] = _renamed(reward, RENAMED_SIGNALS, "reward")
    return values


def new_key(key: str) -> str:
    """Returns the new name of a key of the recipe, logged; the same name where it has none."""
    return next(iter(_renamed({key: None}, RENAMED_KEYS, "key")))


def _renamed(values: Mapping[str, Any], table: Mapping[str, str], kind: str) -> dict[str, Any]:
    """The mapping with new names in the place of old ones, each logged."""
    for old in values.keys() & table.keys():
        if table[old] in values:
            raise RecipeError(f"the recipe gives the {kind} {table[old]} and its old name {old}; leave {old} out.")
        _log(kind, old, table[old])
    return {table.get(name, name): value for name, value in values.items()}


@functools.cache
def _log(kind: str, old: str, new: str) -> None:
    """Logs a new name, once for each process."""
    logging.getLogger("rlif").warning("the %s %s is now called %s; the old name goes on working.", kind, old, new)
