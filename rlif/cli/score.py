"""`rlif score`: parsing and printing only."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from rlif.cli.console import NOT_KEPT, keeps, quiet_transformers, working
from rlif.cli.options import Chat, ChatArguments, Columns, Dtype, MergeSystem, Window, chat_settings, named_columns
from rlif.files.jsonl import count_lines


@working("scoring", NOT_KEPT)
def score(
    file: Annotated[Path, typer.Argument(help="JSON lines of prompt (text or messages) and completion.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A folder, a hub name, or tiny-reasoner.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; resumes a file.")] = None,
    columns: Columns = None,
    signal: Annotated[
        list[str] | None, typer.Option("--signal", help="Also a signal of your own, as signals.py:peak.")
    ] = None,
    chat: Chat = None,
    chat_template_kwargs: ChatArguments = None,
    merge_system: MergeSystem = None,
    end: Annotated[
        bool, typer.Option("--end/--no-end", help="Close completions with the token that ends a turn.")
    ] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per forward pass.")] = 16,
    window: Window = None,
    dtype: Dtype = "auto",
) -> None:
    """Score text by a model's confidence.

    Writes the same rows with self-certainty, entropy, likelihood and the other signals.
    """
    from rlif.selection.score_file import score_file
    from rlif.selection.scorer import load_scorer
    from rlif.signals import SIGNALS, find_signal

    also = tuple(name for name in signal or () if find_signal(name) and name not in SIGNALS)
    keeps(f"written rows are kept in {out}; give the same command again" if out else NOT_KEPT)
    total = count_lines(file)
    quiet_transformers()
    how = chat_settings(chat, chat_template_kwargs, merge_system)
    scorer = load_scorer(model, chat=how, end=end, batch_size=batch_size, window=window, dtype=dtype)
    counts = score_file(replace(scorer, also=also), file, out or sys.stdout, total, named_columns(columns))
    print(
        f"{counts['rows']} rows ({counts['skipped']} were there already), {counts['unscorable']} unscorable"
        + (f": {out}" if out else ""),
        file=sys.stderr,
    )
