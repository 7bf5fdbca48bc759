"""Ends a script with one sentence and exit code 2 where the user can put something right."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rlif.errors import RlifError, why_unreadable

MAKERS = {
    "runs/goes-on-base": "pretrain_reasoner.py --writers goes-on",
    "runs/wrong-and-sure-base": "pretrain_reasoner.py --writers wrong-and-sure",
    "runs/real-base": "real_base.py",
    "runs/frozen-base": "frozen_base.py teach",
}


def call(main: Callable[[], None]) -> None:
    """Calls a script's `main`; says in one sentence which input it could not use. A closed pipe needs no sentence."""
    try:
        main()
        if sys.stdout is not None:  # closed when Python began
            sys.stdout.flush()
    except BrokenPipeError:
        if sys.stdout is None or not _nobody_reads(pipe := sys.stdout.fileno()):
            raise  # another pipe, of a child
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe)  # Python flushes once more when it ends
        sys.exit(1)
    except RlifError as error:
        sentence = str(error)
    except json.JSONDecodeError as error:
        sentence = f"a kept file cannot be read: {why_unreadable(error)}."
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""  # a full disk has none
        sentence = f"{where}{why_unreadable(error)}."
    else:
        return
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    sys.exit(2)


def _nobody_reads(pipe: int) -> bool:
    """Tells whether the other end of a pipe is closed, which `poll` reports as an error or a hang-up."""
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def missing_base(models: Iterable[str]) -> str | None:
    """Says which script makes the first of the models that is a base of ours and is not there."""
    for model in models:
        if model in MAKERS and not (Path(model) / "config.json").is_file():
            return f"{model} is not a folder of a model: run {MAKERS[model]} first"
    return None
