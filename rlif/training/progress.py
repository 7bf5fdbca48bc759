"""Logs the progress of a run that is trained from Python without a console."""

import io
import logging

from rich.console import Console

LOGGER = logging.getLogger("rlif.training")


class _Log(io.StringIO):
    """Logs each line that is written."""

    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            LOGGER.info("%s", line.rstrip())
        return len(text)


def logging_console() -> Console:
    """Makes a console that logs each printed line at level INFO and draws nothing."""
    return Console(file=_Log(), force_terminal=False, force_jupyter=False, color_system=None, width=200)
