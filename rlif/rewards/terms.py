"""Finds the rewards that a recipe names. They are the terms of the sum that an engine gets.

token     a signal of `rlif.SIGNALS`, from statistics of each token under the annotator
group     a signal of `rlif.GROUP_SIGNALS`, from the answers or texts of one problem's completions
grader    an entry of `rlif.graders.GRADERS`: gold answers, form, controls
function  `package.module:function` or `file.py:function`, written for TRL
model     a folder or hub name with a `/`: a reward model

Code of one's own (`rlif.files.own`) is a token signal, a group signal or a grader where its first parameter is
annotated `TokenStats`, `Group` or `Batch`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from rlif.config.recipe import Recipe
from rlif.config.rounds import in_rounds, rounds_read_gold
from rlif.config.schedule import ALWAYS, Rows, Weight
from rlif.errors import DataError, RecipeError, nearest
from rlif.files import own
from rlif.graders import FACTORS, GRADERS, NEED_GOLD
from rlif.graders.external import (
    GOLD,
    columns_of,
    import_function,
    missing_column,
    needs_gold,
    own_grader,
    reads_rows,
    reward_function,
    reward_model,
)
from rlif.rewards.time_limit import time_limit
from rlif.sandbox.runner import require_sandbox
from rlif.signals import GROUP_SIGNALS, RENAMED, SIGNALS, fields_read, windowed
from rlif.signals.own_signal import annotated_kind, group_signal
from rlif.signals.token_confidence import WINDOW
from rlif.tasks import Task
from rlif.tasks.chat_template import WITH_TEMPLATE, Chat
from rlif.types import Group, Problem

Kind = Literal["token", "group", "grader", "function", "model"]
TABLES: dict[Kind, dict[str, Any]] = {"token": SIGNALS, "group": GROUP_SIGNALS, "grader": GRADERS}


@dataclass(frozen=True)
class Term:
    """One reward with its weight."""

    name: str  # in the recipe and the log
    kind: Kind  # decides what `measure` takes
    # turns `TokenStats`, `Group` or `Batch` into one number per completion, None where it cannot score. It raises
    # `RewardFailed` after the time limit, or where a function from outside the package fails
    measure: Callable[[Any], list[float | None]]
    weight: Weight = ALWAYS  # by step
    needs: tuple[str, ...] = ()  # the fields of `TokenStats` that it reads
    factor: Callable[[Group], float] | None = None  # computes the factor of its advantages in a group
    gold: bool = False  # whether it reads gold answers
    rows: Rows = "all"  # of which problems completions are rewarded; it gives None for the others

    @property
    def needs_labels(self) -> bool:
        """Tells whether it needs gold answers, or to know which problems have one."""
        return self.gold or self.rows != "all"

    @property
    def reads_problems(self) -> bool:
        """Tells whether it needs the problems of the completions; a grader of one's own may read them."""
        return self.needs_labels or (self.kind == "grader" and own.is_own(self.name))

    def takes(self, labelled: bool) -> bool:
        """Tells whether completions of a labelled problem are rewarded, or of one that is not."""
        return self.rows == "all" or labelled == (self.rows == "labelled")


def kind_of(name: str) -> Kind:
    """Tells which kind of reward has this name."""
    for kind, table in TABLES.items():
        if name in table:
            return kind
    if name in RENAMED:
        raise RecipeError(f"the reward {name} is now called {RENAMED[name]}.")
    if own.is_own(name):
        return annotated_kind(own.load(name, "reward")) or "function"
    if "/" in name or Path(name).is_dir():
        return "model"
    if ":" in name or "." in name:
        return "function"
    raise RecipeError(f"unknown reward {name!r}; {nearest(name, chain(*TABLES.values()))}")


def find_term(
    name: str,
    weight: Weight = ALWAYS,
    *,
    rows: Rows = "all",
    window: int = WINDOW,
    seconds: float = 600,
    chat: Chat = WITH_TEMPLATE,
    prompt: Any = None,
    device: str | None = None,
) -> Term:
    """Loads the term of that name.

    Args:
        rows: of which problems completions are rewarded.
        window: tokens in a window of the tail and window confidences.
        seconds: the time limit of `measure` for one batch or group.
        chat: how a reward model renders conversations.
        prompt: one that a reward model must be able to read.
        device: where a reward model goes; "meta" checks its files alone.

    Example:
        >>> find_term("self_certainty").needs
        ('mean_logprob_BT',)
    """
    kind, gold = kind_of(name), name in NEED_GOLD
    if kind == "model":
        measure = reward_model(name, chat, prompt, device)
    elif kind == "function":
        function = import_function(name)
        measure, gold = reward_function(name, function), needs_gold(function)
    elif kind == "token":
        measure = windowed(name, window)
    elif own.is_own(name):
        measure = group_signal(name) if kind == "group" else own_grader(name)
    else:
        measure = TABLES[kind][name]
    limited = time_limit(name, seconds, foreign=kind in ("function", "model") or own.is_own(name))(measure)
    return Term(name, kind, limited, weight, tuple(fields_read(name)), FACTORS.get(name), gold, rows)


def recipe_terms(recipe: Recipe, prompt: Any = None, device: str | None = None) -> list[Term]:
    """Loads the terms of a recipe, in its order; `prompt` and `device` as in `find_term`."""
    return [
        find_term(
            name,
            weight,
            rows=recipe.rows[name],
            window=recipe.confidence_window,
            seconds=recipe.reward_seconds,
            chat=recipe.chat_template,
            prompt=prompt,
            device=device,
        )
        for name, weight in recipe.weights.items()
    ]


def reads_problems(recipe: Recipe) -> bool:
    """Tells whether a reward reads gold answers or columns, or is for some rows; else no gold reaches training.

    Rounds may choose by gold as well.
    """
    if rounds_read_gold(recipe):
        return True
    for name in recipe.weights:
        kind = kind_of(name)
        if recipe.rows[name] != "all" or name in NEED_GOLD:
            return True
        if (kind == "function" and reads_rows(import_function(name))) or (kind == "grader" and own.is_own(name)):
            return True
    return False


def check_terms(recipe: Recipe, task: Task) -> None:
    """Refuses rewards that cannot work, before anything is loaded."""
    kinds = {name: kind_of(name) for name in recipe.weights}
    for name, kind in kinds.items():
        if kind == "function":
            import_function(name)
        if kind == "model" and name.startswith(("/", ".", "~")) and not os.path.isdir(os.path.expanduser(name)):
            raise RecipeError(f"there is no folder {name} to load a reward model from.")
    if recipe.annotator != "online" and "token" not in kinds.values():
        raise RecipeError(
            f"annotator {recipe.annotator} chooses the model that measures confidence, but {', '.join(kinds)} measures"
            " none; leave annotator out."
        )
    if ("semantic_entropy" in kinds) != (recipe.equivalence is not None):
        raise RecipeError(
            "the reward semantic_entropy and the key equivalence go together: equivalence names the model that tells"
            " which texts mean the same, {embedding: NAME} or {entailment: NAME}."
        )
    compared = [n for n, kind in kinds.items() if (kind == "group" or n in FACTORS) and n != "semantic_entropy"]
    if task.runs_code and compared:
        raise RecipeError(
            f"the answers of task {task.name} are programs, which cannot be compared, so {compared[0]} has nothing to"
            " count; use a signal of confidence."
        )
    if task.runs_code and recipe.mask_answer:
        raise RecipeError(
            f"mask_answer leaves the answer out of the update, and the answers of task {task.name} are programs, which"
            " are the whole completion; leave it out."
        )
    if in_rounds(recipe) and (scaling := FACTORS.keys() & kinds.keys()):
        raise RecipeError(f"{min(scaling)} scales advantages, and rounds have none; use accuracy.")
    if recipe.mixing == "sum" and FACTORS.keys() & kinds.keys():
        raise RecipeError(
            f"{' and '.join(FACTORS.keys() & kinds.keys())} scales advantages, which mixing sum would scale once more;"
            " use mixing normalised."
        )
    group = recipe.resolved_training["num_generations"]
    if recipe.rewarded_per_group is not None and recipe.rewarded_per_group > group:
        raise RecipeError(
            f"rewarded_per_group is {recipe.rewarded_per_group}, more than the {group} of training.num_generations; the"
            " rewarded ones are part of the group."
        )


def check_gold(recipe: Recipe, task: Task, problems: list[Problem]) -> None:
    """Refuses rewards from gold, or from columns, where no problem has them, or where programs cannot be run."""
    if task.runs_code and any(name in NEED_GOLD for name in recipe.weights):
        require_sandbox()
    functions = {name: import_function(name) for name in recipe.weights if kind_of(name) == "function"}
    columns = ", ".join(columns_of(problems)) or "none"
    for name, function in functions.items():
        if missing := missing_column(function, problems):
            raise DataError(
                f"the reward {name} asks for {missing!r}, and no problem of task {task.name} has such a column; the"
                f" columns are {columns}."
            )
    known = any(p.gold is not None or p.solution is not None for p in problems) or not {*GOLD}.isdisjoint(
        columns_of(problems)
    )
    needing = [name for name in recipe.weights if name in NEED_GOLD and all(p.gold is None for p in problems)]
    needing += [name for name, function in functions.items() if needs_gold(function) and not known]
    if rounds_read_gold(recipe) and not known and not task.runs_code and recipe.rounds is not None:
        needed = "given answers" if recipe.rounds.choose == "given" else "gold answers"
        raise DataError(
            f"rounds.choose {recipe.rounds.choose} needs {needed}, and none of the {len(problems)} problems of task"
            f" {task.name} has one; choose surest, borda or plurality, which need none."
        )
    if needing and not task.runs_code:
        named = " (columns: {gold: NAME} names their column)" if task.usual else ""
        raise DataError(
            f"the reward {needing[0]} needs gold answers{named}, and none of the {len(problems)} problems of task"
            f" {task.name} has one; use a label-free reward."
        )


def check_labels(recipe: Recipe, task: Task, labelled: Sequence[bool]) -> None:
    """Refuses rewards and stages for labelled or unlabelled problems where there are none.

    Args:
        labelled: whether each problem is, for rewards.
    """
    if recipe.labels is not None and task.runs_code:
        raise RecipeError(f"labels hides gold answers, and task {task.name} has tests instead; leave it out.")
    if recipe.labels is not None and not reads_problems(recipe) and recipe.order == "shuffled":
        raise RecipeError("labels limits the gold answers that rewards see, and no reward reads any; leave it out.")
    asked: dict[str, Rows] = {f"the reward {name} is for": rows for name, rows in recipe.rows.items() if rows != "all"}
    if nonsense := [name for name, rows in recipe.rows.items() if rows == "unlabelled" and name in NEED_GOLD]:
        raise RecipeError(
            f"the reward {nonsense[0]} reads gold answers, and unlabelled problems have none; take it out."
        )
    if recipe.order != "shuffled":
        asked[f"order {recipe.order} makes a stage of"] = "labelled" if not any(labelled) else "unlabelled"
    check_rows(asked, labelled)


def check_rows(asked: Mapping[str, Rows], labelled: Sequence[bool]) -> None:
    """Refuses what is for labelled or unlabelled problems where there are none.

    Args:
        asked: by the first words of the sentence, of which problems it is.
        labelled: whether each problem is.
    """
    for what, rows in asked.items():
        if any(known == (rows == "labelled") for known in labelled):
            continue
        found = "has a gold answer" if rows == "unlabelled" else "has none"
        raise DataError(f"{what} {rows} problems, but each of the {len(labelled)} {found}; leave that out.")
