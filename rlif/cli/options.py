"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe that ships (see `rlif recipes`), or a file.")]
RecipeOrNone = Annotated[str | None, typer.Argument(help="A recipe that ships (see `rlif recipes`), or a file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe.")]
UnsafeLocal = Annotated[bool, typer.Option("--unsafe-local", help="Run model code without a sandbox.")]
Chat = Annotated[
    bool | None,
    typer.Option("--chat/--no-chat", help="Chat template or plain prompts; a template if there is one."),
]
Dtype = Annotated[str, typer.Option(help="Type of the weights: auto, float32, bfloat16 or float16.")]
Window = Annotated[
    int | None, typer.Option(min=1, help="Tokens in a window of tail or window confidence; by default 2048.")
]
