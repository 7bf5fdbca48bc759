"""Options that several commands have, and the names of their arguments."""

from __future__ import annotations

from typing import Annotated

import typer

Chat = Annotated[
    bool | None, typer.Option("--chat/--no-chat", help="Chat template or none; by default if the tokenizer has one.")
]
Dtype = Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16, float16.")]
Window = Annotated[
    int | None, typer.Option(min=1, help="Tokens in a window of the group confidences; 2048 by default.")
]
