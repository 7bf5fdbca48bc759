"""Options that several commands have, and the recipe that `train` and `launch` are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.errors import RecipeError

if TYPE_CHECKING:
    from rlif.config.recipe import Recipe as Settings
    from rlif.runs.folder import Run
    from rlif.tasks.chat_template import Chat as Template

Recipe = Annotated[str, typer.Argument(help="A recipe that ships (see `rlif recipes`), or a file.")]
RecipeOrNone = Annotated[str | None, typer.Argument(help="A recipe that ships (see `rlif recipes`), or a file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")]
Resume = Annotated[Path | None, typer.Option(help="Resume this run folder from its last checkpoint.")]
Strategy = Annotated[
    str, typer.Option(help="What GPUs split to save memory: ddp nothing, zero2 all but weights, fsdp2 and zero3 all.")
]
ServerGpus = Annotated[int, typer.Option(min=1, help="GPUs of the vLLM server, if the recipe has one.")]
UnsafeLocal = Annotated[bool, typer.Option("--unsafe-local", help="Run model code without a sandbox.")]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        help="Whether prompts go through the model's chat template; by default where it has one. Use --no-chat for a"
        " base model.",
    ),
]
ChatArguments = Annotated[
    str | None,
    typer.Option(
        "--chat-template-kwargs",
        help="Arguments for the chat template, as '{enable_thinking: false}'; those of its run for a trained model.",
    ),
]
MergeSystem = Annotated[
    bool | None,
    typer.Option(
        "--merge-system/--no-merge-system",
        help="Put the system message into the user's, for chat templates that take none; as its run for a trained"
        " model.",
    ),
]
Dtype = Annotated[str, typer.Option(help="Type of the weights: auto, float32, bfloat16 or float16.")]
Window = Annotated[int | None, typer.Option(min=1, help="Tokens of tail and window confidence; by default 2048.")]
PromptName = Annotated[
    str | None, typer.Option("--prompt", help="Template, YAML file, or your own as prompts.py:SHORT; else the task's.")
]
Columns = Annotated[
    str | None,
    typer.Option(help="Which columns of the data hold what, as prompt=frage,gold=antwort; a dot reaches inside."),
]


def named_columns(columns: str | None) -> dict[str, str]:
    """Reads the option --columns."""
    pairs = [pair.partition("=") for pair in (columns or "").split(",") if pair.strip()]
    if not all(key.strip() and name.strip() for key, _, name in pairs):
        raise RecipeError(f"cannot read {columns!r}; columns look like prompt=frage,gold=antwort.")
    return named_once([(key.strip(), name.strip()) for key, _, name in pairs], "--columns")


def named_once(pairs: Sequence[tuple[str, str]], option: str) -> dict[str, str]:
    """Makes a mapping of what an option gives.

    Raises:
        RecipeError: it gives two values for one name.
    """
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise RecipeError(f"{option} names {repeated[0]!r} twice; leave one out.")
    return dict(pairs)


def chat_settings(chat: bool | None, arguments: str | None, merge_system: bool | None) -> Template:
    """Reads the three options about the chat template."""
    from rlif.files.yaml import parse_yaml
    from rlif.tasks.chat_template import Chat

    given = None if arguments is None else parse_yaml(arguments, "--chat-template-kwargs")
    if given is not None and not (isinstance(given, dict) and all(isinstance(name, str) for name in given)):
        raise RecipeError(
            f"--chat-template-kwargs holds {arguments!r}; expected names and values, as '{{enable_thinking: false}}'."
        )
    return Chat(chat, given, merge_system)


def find_settings(
    recipe: str | None, overrides: list[str] | None, resume: Path | None, example: str
) -> tuple[Settings, str, Run | None]:
    """Loads the recipe that is given, or that of the run to resume; returns it, a name for its folder, and that run."""
    from rlif.config.loading import find_recipe, load_recipe
    from rlif.runs.folder import Run
    from rlif.runs.paths import check_code

    if resume is not None:
        if recipe is not None:
            raise RecipeError("--resume takes the recipe from the run folder; give none beside it.")
        run = Run.open(resume)
        settings = run.recipe()
        check_code(settings, run.path)
        return settings, run.path.name, run
    if recipe is None:
        raise RecipeError(f"give a recipe, e.g. `rlif {example}`, or a run folder with --resume.")
    return load_recipe(recipe, overrides or []), find_recipe(recipe).stem, None
