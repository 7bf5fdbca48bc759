"""Finds signals, group signals and graders among the `reward_funcs` of a TRL trainer; all others are TRL's."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any, cast

import datasets
from pydantic import ValidationError

from rlif.config.recipe import Annotator as Kind
from rlif.config.recipe import Equivalence, Normalisation
from rlif.config.schedule import Rows
from rlif.engines.trl.measuring.annotator import Annotator
from rlif.engines.trl.rewards import GOLD_COLUMNS, Column, InternalReward, no_gold
from rlif.errors import DataError, RecipeError, nearest
from rlif.files.own import is_own
from rlif.graders import FACTORS, NEED_GOLD
from rlif.graders.external import import_function
from rlif.rewards.equivalence import load_equivalence
from rlif.rewards.mixing import NORMALISATIONS
from rlif.rewards.terms import TABLES, Term, check_rows, find_term, kind_of
from rlif.signals import RENAMED
from rlif.tasks import Task, find_task
from rlif.tasks.labels import golds_of
from rlif.tasks.prompts_file import PromptsFile
from rlif.tasks.rendering import is_text
from rlif.types import ClusterTexts

NAME = re.compile(r"[A-Za-z_]+")  # of a signal; hub ids of one word have digits or hyphens: gpt2, bert-base-uncased


def known_name(reward: Any) -> str | None:
    """Returns the name of a signal, group signal or grader, also one's own; None for what is TRL's.

    TRL's are functions, models and hub ids.

    Raises:
        RecipeError: a string is neither.
    """
    if callable(reward):
        return next((name for table in TABLES.values() for name, value in table.items() if value is reward), None)
    if not isinstance(reward, str):
        return None
    names = {*chain.from_iterable(TABLES.values()), *RENAMED}
    if reward in names or is_own(reward):
        return reward
    if reward.startswith((".", "/", "~")) and not os.path.isdir(reward):
        raise RecipeError(f"the reward {reward} is a path, and there is no such folder of a model.")
    if "/" in reward or os.path.isdir(reward):
        return None
    advice = nearest(reward, sorted(names))
    if NAME.fullmatch(reward) or "did you mean" in advice:
        raise RecipeError(
            f"unknown reward {reward!r}; {advice} A model is named by its folder, or by a hub id with a slash."
        )
    return None


@dataclass(frozen=True)
class ForRows:
    """A reward of `reward_funcs` for some rows alone; completions of the others get None from it.

    Raises:
        RecipeError: the reward is not one of rlif's, or reads gold answers and is for rows without any.
    """

    reward: Any  # a signal, group signal or grader, by its name or as the function of that name
    rows: Rows

    def __post_init__(self) -> None:
        name = known_name(self.reward)
        if name is None or kind_of(name) == "function":
            given = getattr(self.reward, "__name__", None) or repr(self.reward)
            raise RecipeError(
                f"{self.rows} is for signals and graders of rlif, and {given:.60} is not among them; a function returns"
                " None for rows that it does not reward."
            )
        if self.rows == "unlabelled" and name in NEED_GOLD:
            raise RecipeError(f"the reward {name} reads gold answers, and unlabelled rows have none; take it out.")


def labelled(reward: Any) -> ForRows:
    """Rewards only completions of rows with a gold answer.

    Args:
        reward: a signal, group signal or grader of rlif, as in `reward_funcs`.

    Example:
        >>> labelled("accuracy")
        ForRows(reward='accuracy', rows='labelled')
    """
    return ForRows(reward, "labelled")


def unlabelled(reward: Any) -> ForRows:
    """Rewards only completions of rows without a gold answer.

    Args:
        reward: as of `labelled`; it reads no gold answers.
    """
    return ForRows(reward, "unlabelled")


def resolve(reward_funcs: Any, task: Task | str | None, annotator: Annotator | str) -> tuple[Any, InternalReward]:
    """Returns the reward functions for TRL, and what measures those of them that are rlif's, if any."""
    if isinstance(reward_funcs, InternalReward):
        return reward_funcs.columns(), reward_funcs
    several = isinstance(reward_funcs, list | tuple)
    entries = list(reward_funcs) if several else [] if reward_funcs is None else [reward_funcs]
    rows: list[Rows] = [each.rows if isinstance(each, ForRows) else "all" for each in entries]
    given = [each.reward if isinstance(each, ForRows) else each for each in entries]
    for each in given:
        if not callable(each) and not isinstance(each, str):
            raise RecipeError(f"reward_funcs has {each!r:.40}; give a name, a function, a model or a list.")
        if isinstance(each, InternalReward | Column):
            raise RecipeError(
                f"the reward {each.__name__} was made for another trainer; name it instead: 'self_certainty'."
            )
    of_own = [isinstance(each, str) and is_own(each) and kind_of(each) == "function" for each in given]
    given = [import_function(each) if own else each for own, each in zip(of_own, given, strict=True)]
    names = [known_name(each) for each in given]
    if not isinstance(annotator, Annotator):
        annotator = Annotator(cast(Kind, annotator), may_copy=True)  # which refuses other words
    terms = [find_term(name, rows=of) for name, of in zip(names, rows, strict=True) if name]
    if len({term.name for term in terms}) < len(terms):
        twice = next(term.name for n, term in enumerate(terms) if term.name in [each.name for each in terms[:n]])
        raise RecipeError(f"reward_funcs has {twice} twice; name it once, and give it a weight by args.reward_weights.")
    theirs = {getattr(each, "__name__", "") for name, each in zip(names, given, strict=True) if name is None}
    if shared := sorted(theirs & {term.name for term in terms}):
        raise RecipeError(f"reward_funcs has both {shared[0]} and a function of that name; rename the function.")
    if annotator.kind != "online" and all(term.kind != "token" for term in terms):
        raise RecipeError(f"annotator {annotator.kind} chooses the model that measures confidence; no reward does.")
    if not terms:
        return given if several or isinstance(reward_funcs, str) else reward_funcs, InternalReward([])
    reward = InternalReward(terms, annotator=annotator, task=_task(task, terms))
    columns = {column.__name__: column for column in reward.columns()}
    return [columns[name] if name else each for name, each in zip(names, given, strict=True)], reward


def clustering(equivalence: Any, reward: InternalReward) -> ClusterTexts | None:
    """Loads the model of semantic_entropy."""
    wanted = any(term.name == "semantic_entropy" for term in reward.terms)
    if equivalence is None and wanted:
        raise RecipeError(
            "semantic_entropy needs a model that tells which texts mean the same; pass"
            " equivalence={'entailment': NAME}, or {'embedding': NAME}."
        )
    if equivalence is None:
        return None
    if not wanted:
        raise RecipeError("equivalence is the model of semantic_entropy, which reward_funcs does not have.")
    try:
        settings = Equivalence.model_validate(equivalence)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"equivalence is {equivalence!r:.60}: {said[:1].lower()}{said[1:]}.") from None
    return load_equivalence(settings)


def _task(task: Task | str | None, terms: Sequence[Term]) -> Task:
    """Returns the task; without one, answers are boxed expressions and compared mathematically."""
    found = PromptsFile() if task is None else find_task(task) if isinstance(task, str) else task
    if not isinstance(found, Task):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise RecipeError(f"the task is {what}; give a name of `rlif tasks`, or an object of a class over Task.")
    if found.runs_code:
        raise RecipeError(
            f"the answers of task {found.name} are programs, which {terms[0].name} cannot read here; use `rlif train`."
        )
    grading = [term.name for term in terms if term.gold or (term.kind == "grader" and is_own(term.name))]
    if found.reads_data and grading:
        raise RecipeError(
            f"task {found.alias or found.name} grades by data that it loads itself, which {grading[0]} cannot read"
            " here; use `rlif train`."
        )
    return found


def check_data(reward: InternalReward, dataset: Any, args: Any) -> None:
    """Refuses data and options that the rewards cannot be measured with, before a model is loaded."""
    names = getattr(dataset, "column_names", None)
    if reward.terms and names is not None and "prompt" not in names:
        raise DataError(f"the data set needs a column prompt; it has {', '.join(names) or 'no column'}.")
    if any(term.kind == "token" for term in reward.terms):
        refuse_images(reward, dict.fromkeys(names or ()))
    if reward.annotator.kind == "offline" and getattr(args, "sync_ref_model", False):
        raise RecipeError(
            "sync_ref_model moves the reference, and annotator offline is its start; leave one of them out."
        )
    needing = [term for term in reward.terms if term.needs_labels]
    if not needing or names is None or reward.problems is not None:
        return
    column = next((name for name in GOLD_COLUMNS if name in names), None)
    if column is None:
        raise DataError(no_gold(needing[0], names))
    if isinstance(dataset, datasets.Dataset):
        known = [bool(golds_of(value)) for value in dataset[column]]
        if not any(known) and (golden := next((term.name for term in needing if term.gold), None)):
            raise DataError(
                f"the reward {golden} needs gold answers, and the column {column} is empty in every row; fill it, or"
                " use rewards without gold."
            )
        check_rows({f"the reward {term.name} is for": term.rows for term in needing if term.rows != "all"}, known)
    if getattr(args, "remove_unused_columns", False):
        raise RecipeError(f"the reward {needing[0].name} reads the column {column}; set remove_unused_columns=False.")


def check_prompt(prompt: Any) -> None:
    """Refuses a prompt that is neither text nor a conversation, before the model would fail at it."""
    if not isinstance(prompt, str | list) or not prompt:
        raise DataError(f"a prompt of the data set is {prompt!r:.40}; expected text, or a list of messages.")


def refuse_images(reward: InternalReward, row: Mapping[str, Any]) -> None:
    """Refuses a row with images, in a column or in the prompt, for token signals."""
    if not {"image", "images"}.isdisjoint(row) or not is_text(row.get("prompt") or ""):
        name = next(term.name for term in reward.terms if term.kind == "token")
        raise RecipeError(f"{name} is measured on text alone, and the data set has images; use other rewards.")


def check_scaling(args: Any, normalisation: Normalisation | None, names: Sequence[str], *, by_recipe: bool) -> None:
    """Refuses a second scaling of rewards: TRL's own beside `normalisation`.

    Args:
        by_recipe: for `rlif train`, whose algorithm reinforce normalises advantages besides.
    """
    if normalisation is not None and normalisation not in NORMALISATIONS:
        raise RecipeError(f"unknown normalisation {normalisation!r}; {nearest(str(normalisation), NORMALISATIONS)}")
    weights = getattr(args, "reward_weights", None) or []
    if (names or normalisation) and not all(isinstance(w, Real) and math.isfinite(w) for w in weights):
        raise RecipeError(f"reward_weights is {weights}; weights are finite numbers.")
    if normalisation is None:
        if scaling := [name for name in names if name in FACTORS]:
            raise RecipeError(
                f"{scaling[0]} makes some advantages smaller, which TRL's scale_rewards would undo; pass"
                " normalisation='group_std'."
            )
        return
    usual: dict[str, tuple[Any, ...]] = {
        "scale_rewards": ("group", "none"),
        "multi_objective_aggregation": ("sum_then_normalize",),
        "normalize_advantages": (False, by_recipe),
    }
    for option, values in usual.items():
        if (value := getattr(args, option, values[0])) not in values:
            raise RecipeError(
                f"both {option}={value!r} and normalisation={normalisation!r} scale the rewards; leave one of them out."
            )
