"""`rlif export`: parsing and printing only."""

from pathlib import Path
from typing import Annotated

import typer

from rlif.cli.console import quiet_transformers, working


@working("exporting the model", "a folder that exists is whole; if there is none, give the same command again")
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The new folder.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge adapters into their base.")] = False,
    hub: Annotated[str | None, typer.Option(help="Upload to this repository of the hub, OWNER/NAME.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Export a trained model, with its card and scores.

    Example: `rlif export runs/demo -o my-model`, or `rlif export runs/mine --merge --hub me/my-model`.
    """
    from rlif.exporting.folder import export as write

    quiet_transformers()
    print(f"exported to {write(run, output, merge=merge, hub=hub, private=private)}")
