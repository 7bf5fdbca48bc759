"""`rlif leaderboard`: parsing and printing only."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rlif.cli.console import working
from rlif.cli.tables import print_table, print_text


@working("reading runs")
def leaderboard(
    what: Annotated[
        list[Path], typer.Argument(metavar="FOLDER|FILE.json...", help="Runs, or tables of rlif compare --out.")
    ],
    out: Annotated[list[Path] | None, typer.Option(help="Write the page: .md or .json; repeatable.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Leave this method out; repeatable.")] = None,
) -> None:
    """Rank methods on every base they ran on, with what would falsify each claim.

    Example: `rlif leaderboard results/miniature.json mine.json --out leaderboard.md`. Runs of one base and task make a
    board; there all must have the same setting. `rlif compare RUNS --out mine.json` makes a file of runs to send.
    """
    from rlif.comparison.leaderboard import read_boards
    from rlif.comparison.leaderboard_page import HEADINGS, cells, claims, format_of, write

    for path in out or []:
        format_of(path)
    boards = read_boards(what, without or [])
    for board in boards:
        print(f"{board.base}, trained on {board.task}")
        print_table(list(HEADINGS), [cells(row, board) for row in board.standings], left=2)
        for claim in claims(board):
            print_text(claim)
    options = [part for name in without or [] for part in ("--without", name)]
    targets = [path.name if path.is_absolute() else str(path) for path in what]
    for path in out or []:
        write(boards, path, shlex.join(["rlif", "leaderboard", *targets, *options]))
        typer.echo(f"written: {path}")
