"""`rlif check-graders`: parsing and printing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check_graders(
    folder: Annotated[Path, typer.Argument(help="Recorded outputs, with expected.json.")],
    data: Annotated[Path | None, typer.Option(help="Problems and golds; the folder's parent, else RLIF_DATA.")] = None,
    unsafe_local: Annotated[bool, typer.Option("--unsafe-local", help="Run model code without a sandbox.")] = False,
) -> None:
    """Grade published outputs and compare with the published scores; exit code 1 if any is out of its tolerance."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from rlif.evaluation.reproduce import check_graders, table

    console = Console()
    with console.status("grading") as status:
        rows = check_graders(
            folder, data, unsafe_local=unsafe_local, progress=lambda row: status.update(f"graded {row.entry}")
        )
    header, *lines = table(rows)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in header[:-1]:
        numeric = heading in ("items", "published", "ours", "difference")
        shown.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    notes = []
    for *cells, note in lines:
        shown.add_row(*cells)
        notes.append(f"{cells[0]}: {note}")
    console.print(shown)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    out = sum(not row.within for row in rows)
    console.print(f"{len(rows) - out} of {len(rows)} within tolerance", highlight=False)
    if out:
        raise typer.Exit(1)
