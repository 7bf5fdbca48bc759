"""Reads the header of a recipe: which published run it repeats, on what hardware, and where each value is from.

    about:
      reproduces: Table 4
      published: {gsm8k.paper: [0.553, 0.873]}     before and after, by task; published, not ours
      gpus: 8
      sources: {training.learning_rate: "1e-6 in Table 7; 3e-6 in the reference script degrades"}

`rlif recipes` reads it, training never does. A recipe inherits the header of its base (`rlif.config.inheritance`), but
for `BOUND_TO_A_RUN`. A source or a conflict belongs to a value: a recipe that changes the value does not inherit it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from rlif.config.inheritance import Values, keys_of, lineage
from rlif.config.loading import find_recipe, key_of, load_recipe, shipped_recipes
from rlif.config.recipe import Recipe, Strict
from rlif.config.rounds import feedback_of
from rlif.errors import RecipeError

BY_KEY = ("sources", "conflicts")  # about single values
BOUND_TO_A_RUN = ("reproduces", "published", "reported")


class About(Strict):
    """The header of a recipe."""

    paper: str = ""
    """Where the run was published, with the tables named below."""
    reproduces: str = ""
    """Which table or figure."""
    published: dict[str, tuple[float, float]] = {}
    """Published scores before and after training, by task and protocol of `rlif eval`."""
    reported: str = ""
    """What else was reported about this run, and by whom."""
    gpus: int = Field(default=1, ge=1)
    """Processes that it is written for; other numbers work where the batch divides."""
    memory: int | None = Field(default=None, ge=1)
    """GB of each."""
    hardware: str = ""
    """How the memory is used."""
    sources: dict[str, str] = {}
    """Where each value that a recipe sets is from."""
    conflicts: dict[str, str] = {}
    """Where paper and reference code disagree, by key, and which was taken."""

    @property
    def machine(self) -> str:
        """The hardware in a few words."""
        if self.memory is None:
            return "CPU" if self.gpus == 1 else f"{self.gpus} processes"
        return f"{self.gpus} x {self.memory} GB"


def read_about(recipe: str | Path) -> About:
    """Reads the header of a recipe, with what it inherits.

    Example:
        >>> read_about("intuitor-qwen2.5-3b-math").published["gsm8k.paper"]
        (0.673, 0.792)
    """
    about = inherited(lineage(find_recipe(recipe), shipped_recipes()))
    try:
        return About.model_validate(about)
    except ValidationError as error:
        first = error.errors()[0]
        key = key_of(["about", *first["loc"]])
        raise RecipeError(f"{key} in the recipe {recipe}: {first['msg'].lower()}.") from None


def inherited(chain: Sequence[Values]) -> Values:
    """Merges the headers of a lineage."""
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
    """Names the rewards and the annotator in a few words."""
    names = " + ".join(feedback_of(recipe))
    return names if recipe.annotator == "online" else f"{names}, {recipe.annotator}"


def evaluation_of(about: About) -> str:
    """Writes the command that measures what was published; empty where `rlif eval` measures none of it."""
    tasks = [task for task in about.published if task != "alpaca_eval"]
    return f"rlif eval runs/NAME --tasks {','.join(tasks)}" if tasks else ""


def as_file(name: str) -> dict[str, Any]:
    """Writes out a recipe with its base and all defaults, as a file of its own."""
    about = read_about(name).model_dump(mode="json", exclude_defaults=True)
    return ({"about": about} if about else {}) | load_recipe(name).written_out()
