"""What a command shows besides its results: work that takes long, what Ctrl-C leaves, silence of the libraries."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rlif import progress
from rlif.errors import Interrupted

NOTHING = "nothing was written; give the same command again"
_kept, _shows = [NOTHING], [True]


@contextmanager
def working(kept: str = NOTHING) -> Iterator[None]:
    """Decorates a command: its work is shown where it takes long, and Ctrl-C says what is kept and how to go on.

    Args:
        kept: what to say of Ctrl-C, until the command says something else by `keeps`.
    """
    keeps(kept)
    try:
        with progress.shown() if _shows[0] else nullcontext(), progress.task("working"):
            yield
    except Interrupted:  # said already, by a part of the work
        raise
    except KeyboardInterrupt:
        print(f"rlif: interrupted; {_kept[0]}", file=sys.stderr)
        raise Interrupted from None


def keeps(what: str) -> None:
    """Says what Ctrl-C leaves from now on, and how to go on."""
    _kept[0] = what


def show_work(wanted: bool) -> None:
    """Decides whether commands show long work; of several processes only the first one does."""
    _shows[0] = wanted and os.environ.get("RANK", "0") == "0"


def quiet_transformers() -> None:
    """Turns off the progress bars and warnings of transformers, which would break our lines."""
    import warnings

    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.disable_progress_bar()
