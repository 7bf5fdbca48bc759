"""Reads and writes YAML 1.2, in which 3e-6 is a number and `no` is a word."""

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlif.errors import RecipeError, why_unreadable

MOST_VALUES = 10_000  # in a file; ten lines of aliases can stand for 10^12


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read {path}: {why_unreadable(error)}.") from error
    values = parse_yaml(text, str(path))
    if values is None:
        raise RecipeError(f"{path} is empty; a recipe is a mapping of keys to values.")
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds a {type(values).__name__}; a recipe is a mapping of keys to values.")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """Parses a text; refuses one of more than `MOST_VALUES` values."""
    from ruamel.yaml import YAMLError

    try:
        value = deepcopy(_parsed(text))
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{where} is not YAML: {problem}{line}.") from error
    if not _is_small(value):
        raise RecipeError(f"{where} holds more than {MOST_VALUES:,} values, or aliases that go round in a circle.")
    return value


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """Parses a text once; a comparison reads the recipe of each run several times."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def _is_small(value: Any) -> bool:
    """Tells whether a value has at most `MOST_VALUES` values with its aliases written out."""
    waiting, seen = [value], 0
    while waiting and seen <= MOST_VALUES:
        inner, seen = waiting.pop(), seen + 1
        if isinstance(inner, Mapping | list | tuple | set):
            waiting += [*inner, *(inner.values() if isinstance(inner, Mapping) else ())]
    return not waiting


def write_yaml(values: Mapping[str, Any], path: Path) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(dict(values), file)
