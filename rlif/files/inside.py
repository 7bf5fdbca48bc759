"""Keeps access to a folder inside it: nothing is read, written or deleted through a symbolic link that leads out.

The folder itself may be a link, and a link from inside to inside is followed. `check_links` looks at everything before
long work starts, also at what libraries will open. `inside` looks at one path again, just before it is used.
"""

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from rlif.errors import DataError


def inside(folder: Path, *names: str) -> Path:
    """Returns a path in a folder; refuses one with a symbolic link on the way that leads out of the folder.

    Example:
        >>> inside(Path("runs/demo"), "eval", "step-000000-clock.json")
        PosixPath('runs/demo/eval/step-000000-clock.json')
    """
    path = folder
    for name in names:
        for part in Path(name).parts:
            path = path / part
            if path.is_symlink():
                _check(folder, path)
    return path


def check_links(folder: Path, names: Collection[str]) -> None:
    """Refuses links that lead out of a folder, at or below these or hidden names. Other names are the user's own."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        with suppress(OSError), os.scandir(place) as entries:  # what cannot be listed, or is gone, is not followed
            for entry in entries:
                if place == folder and entry.name not in names and not entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    _check(folder, Path(entry.path))
                elif entry.is_dir():
                    waiting.append(Path(entry.path))


def remove(path: Path) -> None:
    """Deletes a file or a folder, or a link itself and not what it points to; does nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _check(folder: Path, link: Path) -> None:
    target = os.path.realpath(link)
    if not Path(target).is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"{link} is a symbolic link to {target}, which is outside of {folder}, so nothing is read or written there;"
            " put the file or folder itself in its place, or remove the link."
        )
