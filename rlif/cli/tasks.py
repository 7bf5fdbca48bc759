"""`rlif tasks`: printing only."""

from rlif.cli.tables import print_table


def tasks() -> None:
    """List the tasks and their protocols.

    The first protocol of each task is its default.
    """
    from rlif.tasks import TASKS

    rows = []
    for name, task in TASKS.items():
        for i, (key, protocol) in enumerate(task.protocols.items()):
            decoding = "greedy" if not protocol.temperature else f"T {protocol.temperature:g}, n {protocol.n}"
            title = name if not i else f"{name}.{key}"
            rows.append([title, protocol.prompt, decoding, protocol.extract.__name__, str(protocol.max_tokens)])
    print_table(["task", "prompt", "decoding", "answer", "tokens"], rows, left=4)
