"""What a recipe says of itself: which published run it repeats, on what hardware, and where each of its values is from.

    about:
      reproduces: Table 4
      published: {gsm8k.paper: [0.553, 0.873]}     before and after, by task; there, not here
      gpus: 8
      sources: {training.learning_rate: "1e-6 in Table 7; 3e-6 in the reference script degrades"}

It is read for `rlif recipes` and never by training. From a base (`rlif.config.inheritance`) a recipe takes over all
of it but `BOUND_TO_A_RUN`; a source or a conflict goes with the value it is about, so a recipe that changes the
value does not keep it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from rlif.config.inheritance import Values, keys_of, lineage
from rlif.config.loading import find_recipe, load_recipe, shipped_recipes
from rlif.config.recipe import Recipe, Strict
from rlif.errors import RecipeError

BY_KEY = ("sources", "conflicts")  # what is said of single values
BOUND_TO_A_RUN = ("reproduces", "published", "reported")


class About(Strict):
    """The header of a recipe."""

    paper: str = ""
    """Where the run was published; the tables below are its."""
    reproduces: str = ""
    """Which table or figure."""
    published: dict[str, tuple[float, float]] = {}
    """Scores there, before and after training, by task and protocol of `rlif eval`."""
    reported: str = ""
    """What else is reported of this run, and by whom."""
    gpus: int = Field(default=1, ge=1)
    """Processes it is written for; any number divides that the batch does."""
    memory: int | None = Field(default=None, ge=1)
    """GB of each."""
    hardware: str = ""
    """What takes how much of it."""
    sources: dict[str, str] = {}
    """Where each value that a recipe sets is from."""
    conflicts: dict[str, str] = {}
    """Where paper and reference code disagree, by the key that it is about, and which was taken."""

    @property
    def machine(self) -> str:
        """The hardware in a few words."""
        if self.memory is None:
            return "CPU" if self.gpus == 1 else f"{self.gpus} processes"
        return f"{self.gpus} x {self.memory} GB"


def read_about(recipe: str | Path) -> About:
    """What a recipe says of itself, with what it takes over from its bases.

    Raises:
        RecipeError: no such recipe, or an `about` that cannot be read.

    Example:
        >>> read_about("intuitor-qwen2.5-3b-math").published["gsm8k.paper"]
        (0.673, 0.792)
    """
    about = inherited(lineage(find_recipe(recipe), shipped_recipes()))
    try:
        return About.model_validate(about)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["about", *(str(part) for part in first["loc"])])
        raise RecipeError(f"{key} in the recipe {recipe}: {first['msg'].lower()}.") from None


def inherited(chain: Sequence[Values]) -> Values:
    """The `about` of the last file of a lineage."""
    about: Values = {}
    for values in chain:
        own = values.get("about") or {}
        if not isinstance(own, dict) or not all(isinstance(own.get(key, {}), dict) for key in BY_KEY):
            raise RecipeError(
                f"about in a recipe is a mapping, and so are its {' and '.join(BY_KEY)}, found {str(own)[:60]!r}."
            )
        before = {name: {k: v for k, v in about.get(name, {}).items() if k not in keys_of(values)} for name in BY_KEY}
        about = {key: value for key, value in about.items() if key not in BOUND_TO_A_RUN}
        about = {**about, **own, **{name: {**before[name], **own.get(name, {})} for name in BY_KEY}}
    return about


def method(recipe: Recipe) -> str:
    """What rewards, and whose confidence it is, in a few words."""
    names = [name for name, weight in recipe.weights.items() if weight.ever]
    whose = "" if recipe.annotator == "online" else f", {recipe.annotator}"
    return " + ".join(names) + whose


def evaluation_of(about: About) -> str:
    """The command that measures what was published; empty where nothing was that `rlif eval` measures."""
    tasks = [task for task in about.published if task != "alpaca_eval"]
    return f"rlif eval runs/NAME --tasks {','.join(tasks)}" if tasks else ""


def as_file(name: str) -> dict[str, Any]:
    """A recipe with its base and all defaults written out: a recipe file by itself."""
    about = read_about(name).model_dump(mode="json", exclude_defaults=True)
    return ({"about": about} if about else {}) | load_recipe(name).written_out()
