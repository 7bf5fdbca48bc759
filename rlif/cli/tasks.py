"""`rlif tasks`: parsing and printing only."""

from pathlib import Path
from typing import Annotated

import typer

from rlif.cli.tables import print_table, print_text


def tasks(
    names: Annotated[
        list[str] | None, typer.Argument(help="Only these, also your own, as tasks/riddles.py:Riddles.")
    ] = None,
) -> None:
    """List the tasks and their protocols.

    The first protocol of each task is its default. Classes in the folder `tasks` of the current one are named as well.
    """
    from rlif.files.own import classes_in
    from rlif.tasks import TASKS, easy, find_task

    rows = []
    for name, task in {name: find_task(name) for name in names or TASKS}.items():
        for i, (key, protocol) in enumerate(task.protocols.items()):
            decoding = "greedy" if not protocol.temperature else f"T {protocol.temperature:g}, n {protocol.n}"
            title = name if not i else f"{name}.{key}"
            rows.append([title, protocol.prompt, decoding, protocol.extract.__name__, str(protocol.max_tokens)])
    print_table(["task", "prompt", "decoding", "answer", "tokens"], rows, left=4)
    if not names:
        print_text(f"for small models: {', '.join(f'{easy.PREFIX}{name}' for name in (*easy.FAMILIES, easy.MIXED))}")
        print_text("also reasoning_gym/FAMILY and verifiers/ENVIRONMENT, if installed, and your own: see docs/own.md")
    found = {} if names else classes_in(Path("tasks"))
    if found:
        print_text(f"of your own in tasks: {', '.join(found)}; `rlif tasks NAME` shows one of them.")
