"""Keeps a second process from writing to a folder, or from adding to a file.

The lock is the kernel's (flock on `.lock` in the folder). It ends with its process, so a kill leaves nothing to clean
up. The file stays and names the last holder. Over NFS, flock works between machines since Linux 2.6.12.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rlif.errors import MachineError

LOCK = ".lock"
LOCKLESS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems without locks


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keeps a second process from adding to a file, which is made where there is none.

    Raises:
        MachineError: another process does so now, or the file cannot be written.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineError(f"another process is writing {path}; wait for it or stop it, then try again.") from error
        except OSError as error:
            if error.errno not in LOCKLESS:
                raise MachineError(f"cannot lock {path}: {error.strerror}.") from error
        yield


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Locks the folder against other processes; yields False if the file system has no locks.

    Example:
        >>> with locked(Path("runs/demo")) as promised:
        ...     promised
        True
    """
    path = folder / LOCK
    try:  # not through a link
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", errors="replace")
    except OSError as error:
        if path.is_symlink():
            raise MachineError(f"{path} is a symbolic link to {os.readlink(path)}; remove the link.") from error
        raise MachineError(f"cannot write to {folder}: {error.strerror}.") from error
    with file:
        yield _take(file, folder)


def _take(file: IO[str], folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.readline(200).strip() or "it does not say which"
        raise MachineError(
            f"{folder} is in use by another process ({holder}); wait for it or stop it, then try again."
        ) from error
    except OSError as error:
        if error.errno in LOCKLESS:
            return False
        raise MachineError(f"cannot lock {folder}: {error.strerror}.") from error
    try:
        os.truncate(file.fileno(), 0)
        os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())  # nothing left to flush
    except OSError as error:
        raise MachineError(f"cannot write to {folder}: {error.strerror}.") from error
    return True
