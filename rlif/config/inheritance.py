"""Merges a recipe over its base: `base:` names another recipe, and the file holds only what differs.

    base: intuitor-qwen2.5-3b-math     a shipped recipe; `base: mine.yaml` is a file in the same folder
    reward: plurality_vote             replaces the base's value
    training: {beta: 0.01}             added to the base's training options, as with every section in `SECTIONS`

Sections are merged key by key, one level deep: `evaluate: {sources: ...}` replaces all sources. The keys in `OWN` are
not inherited. A base may have a base. Training sees neither `base` nor `about`: the run folder keeps the merged recipe,
so later changes to a base change no run.

Old names of keys and rewards go on working: the new name is taken and logged in one line.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlif.errors import RecipeError, nearest
from rlif.files import own
from rlif.files.yaml import read_yaml
from rlif.signals import RENAMED as RENAMED_SIGNALS
from rlif.tasks import absolute_task

SECTIONS = ("training", "verl", "evaluate", "guard", "lora", "rounds", "online")
OWN = ("base", "about", "description", "name")
SUFFIXES = (".yaml", ".yml")
RENAMED_KEYS = {"meaning": "equivalence"}

Values = dict[str, Any]


def lineage(path: Path, shipped: Mapping[str, Path]) -> list[Values]:
    """Reads a recipe and its bases, the oldest first, old names of keys replaced."""
    chain = {path: _read(path)}
    while (base := chain[path].get("base")) is not None:
        path = _file_of(base, path, shipped)
        if path.resolve() in [file.resolve() for file in chain]:
            names = " -> ".join(file.stem for file in [*chain, path])
            raise RecipeError(f"recipes cannot be their own base: {names}.")
        chain[path] = _read(path)
    return [*reversed(chain.values())]


def _read(path: Path) -> Values:
    return with_absolute_names(with_new_names(read_yaml(path)), path.parent)


def with_absolute_names(values: Mapping[str, Any], folder: Path) -> Values:
    """Replaces names of the user's code beside a recipe, in `folder`, by absolute paths."""

    def name(value: Any) -> Any:
        return own.absolute_name(value, folder) if isinstance(value, str) and own.is_own(value) else value

    def prompt(value: Any) -> Any:
        beside_it = isinstance(value, str) and value.endswith(SUFFIXES) and (folder / value).is_file()
        return str((folder / value).resolve()) if beside_it else name(value)

    def task(value: Any) -> Any:
        return absolute_task(value, folder) if isinstance(value, str) else value

    changed = dict(values)
    for key, change in (("task", task), ("prompt", prompt), ("reward", name)):
        if key in changed:
            value = changed[key]
            changed[key] = {change(each): v for each, v in value.items()} if isinstance(value, dict) else change(value)
    section = changed.get("evaluate")
    if isinstance(section, Mapping) and isinstance(section.get("tasks"), list):
        changed["evaluate"] = {**section, "tasks": [task(each) for each in section["tasks"]]}
    return changed


def _file_of(base: Any, named_in: Path, shipped: Mapping[str, Path]) -> Path:
    if not isinstance(base, str):
        raise RecipeError(f"base in {named_in} is {base!r}; it is the name of one recipe.")
    if base.endswith(SUFFIXES):
        path = named_in.parent / Path(base).expanduser()
        if not path.is_file():
            raise RecipeError(f"base in {named_in} names {base}, and there is no such file beside it.")
        return path
    return shipped_recipe(base, shipped, f"base in {named_in} is {base!r}, which does not ship")


def shipped_recipe(name: str, shipped: Mapping[str, Path], wrong: str) -> Path:
    """Returns the file of a shipped recipe; `wrong` says what is wrong where there is none."""
    if name not in shipped:
        raise RecipeError(f"{wrong}; {nearest(name, shipped, 'rlif recipes')}")
    return shipped[name]


def merged(chain: Sequence[Values]) -> Values:
    """Merges a lineage into one recipe; each file replaces values of those before it.

    Example:
        >>> merged([{"seed": 1, "training": {"beta": 0.1}}, {"base": "a", "training": {"epsilon": 0.3}}])
        {'seed': 1, 'training': {'beta': 0.1, 'epsilon': 0.3}}
    """
    result: Values = {}
    for values in chain:
        result = {key: value for key, value in result.items() if key not in OWN}
        for key, value in values.items():
            before = result.get(key)
            if key in SECTIONS and isinstance(before, dict) and isinstance(value, dict):
                value = before | value
            result[key] = value
    return {key: value for key, value in result.items() if key not in ("base", "about")}


def keys_of(values: Mapping[str, Any]) -> list[str]:
    """Lists the keys that one file sets, those in sections with a dot: `model`, `training.beta`."""
    keys = []
    for key, value in values.items():
        inside = key in SECTIONS and isinstance(value, dict)
        keys += [f"{key}.{inner}" for inner in value] if inside else [key]
    return keys


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
