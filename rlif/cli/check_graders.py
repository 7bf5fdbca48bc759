"""`rlif check-graders`: parsing and printing only."""

from pathlib import Path
from typing import Annotated

import typer

from rlif.cli.console import working
from rlif.cli.options import UnsafeLocal
from rlif.cli.tables import print_table


@working("grading")
def check_graders(
    folder: Annotated[Path, typer.Argument(help="Recorded outputs, with expected.json.")],
    data: Annotated[Path | None, typer.Option(help="Problems and golds; the folder's parent, else RLIF_DATA.")] = None,
    unsafe_local: UnsafeLocal = False,
) -> None:
    """Grade published outputs; compare with published scores.

    The exit code is 1 if any score is out of its tolerance.
    """
    from rlif.evaluation.reproduce import check_graders, table

    rows = check_graders(folder, data, unsafe_local=unsafe_local)
    (*headings, _), *lines = table(rows)
    print_table(headings, [cells for *cells, _ in lines])
    for name, *_, note in lines:
        print(f"{name}: {note}")
    out = sum(not row.within for row in rows)
    print(f"{len(rows) - out} of {len(rows)} within tolerance")
    if out:
        raise typer.Exit(1)
