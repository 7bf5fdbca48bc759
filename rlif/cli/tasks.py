"""`rlif tasks`: printing only."""

from __future__ import annotations


def tasks() -> None:
    """List the tasks and their protocols, the first of each its default."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from rlif.tasks import TASKS

    table = Table("task", "prompt", "tokens", "decoding", "answer", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, task in TASKS.items():
        for i, (key, protocol) in enumerate(task.protocols.items()):
            greedy = "greedy" if not protocol.temperature else f"T {protocol.temperature:g}, n {protocol.n}"
            title = name if not i else f"{name}.{key}"
            table.add_row(title, protocol.prompt, str(protocol.max_tokens), greedy, protocol.extract.__name__)
    Console().print(table)
