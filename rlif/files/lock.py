"""One process at a time writes a run folder.

The lock is the kernel's (flock on `.lock` in the folder): it is gone the moment its process is, however that ended, so
there is nothing to clean up after a kill. The file itself stays; what is in it only names the holder. Over NFS flock
holds between machines with Linux 2.6.12 and newer; where there are no locks, that is what `locked` yields.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rlif.errors import RlifError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Holds the folder; yields whether the file system could promise that.

    Raises:
        RlifError: another process holds it, or it cannot be written.

    Example:
        >>> with locked(Path("runs/demo")) as promised:
        ...     promised
        True
    """
    path = folder / LOCK
    try:
        file = path.open("a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise RlifError(f"cannot write to {folder}: {error.strerror}.") from error
    with file:
        yield _take(file, folder)


def _take(file: IO[str], folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.readline(200).strip() or "it does not say which"
        raise RlifError(
            f"{folder} is in use by another process ({holder}); wait for it or stop it, then try again."
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise RlifError(f"cannot lock {folder}: {error.strerror}.") from error
    try:
        os.truncate(file.fileno(), 0)
        os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())  # nothing left to flush
    except OSError as error:
        raise RlifError(f"cannot write to {folder}: {error.strerror}.") from error
    return True
