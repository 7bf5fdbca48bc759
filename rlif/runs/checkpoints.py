"""Seals checkpoints by a manifest that is written last and checked before anything is loaded.

checkpoints/checkpoint-10/
    ...                  the engine's own files
    manifest.json        {step, files: {name: {bytes, sha256}}}: written when everything else is on the disk

A folder without a manifest was torn by a kill or a full disk and is never used. One whose files differ from its
manifest is damaged; `damage` says how. Old checkpoints are deleted only after the new one is sealed. Their manifest
goes first, so a kill in between leaves a torn checkpoint, never one that looks whole.

What to watch: sealing and checking read every byte once (sha256, about a GB per second and core).
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlif.errors import MachineError, why_unreadable
from rlif.files.atomic import is_count, replace_file, sync
from rlif.files.inside import inside, remove

MANIFEST = "manifest.json"


def step_in_name(text: str) -> int | None:
    """Reads the step from a part of a file's name; None if it is not a step.

    Example:
        >>> [step_in_name(text) for text in ("000010", "10a", "", "9" * 16)]
        [10, None, None, None]
    """
    step = int(text) if text.isascii() and text.isdigit() else None
    return step if is_count(step) else None


def step_of(checkpoint: Path) -> int:
    """Returns the step of a checkpoint; -1 for a folder with another kind of name."""
    step = step_in_name(checkpoint.name.removeprefix("checkpoint-"))
    return -1 if step is None else step


def in_order(folder: Path) -> list[Path]:
    """Lists all checkpoints of a folder by step, torn ones included; refuses links that lead out of the run."""
    found = [path for path in folder.glob("checkpoint-*") if step_of(path) >= 0 and path.is_dir()]
    return [inside(folder.parent, folder.name, path.name) for path in sorted(found, key=step_of)]


def seal(checkpoint: Path) -> None:
    """Writes the manifest, once every file of the checkpoint is on the disk."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    with ThreadPoolExecutor() as pool:
        entries = list(pool.map(_synced_entry, paths))
    files = {path.relative_to(checkpoint).as_posix(): entry for path, entry in zip(paths, entries, strict=True)}
    replace_file(checkpoint / MANIFEST, json.dumps({"step": step_of(checkpoint), "files": files}, indent=1))
    sync(checkpoint.parent)


def is_sealed(checkpoint: Path) -> bool:
    """Tells whether the manifest exists; `damage` checks the other files."""
    return (checkpoint / MANIFEST).is_file()


def damage(checkpoint: Path) -> str | None:
    """Describes what is wrong with a sealed checkpoint; None if every byte is as written.

    Raises:
        MachineError: it cannot be read now (an I/O error, no right, too many open files).

    Example::

        damage(run.checkpoints / "checkpoint-10")  # "model.safetensors has other content"
    """
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except OSError as error:
        return _not_there(error, checkpoint, f"{MANIFEST} cannot be read")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda item: _file_damage(checkpoint, item[0], *item[1]), sorted(expected.items()))
        return next((problem for problem in found if problem), None)


def discard(checkpoint: Path) -> None:
    """Deletes a checkpoint, its manifest first."""
    if not checkpoint.is_symlink():
        (checkpoint / MANIFEST).unlink(missing_ok=True)
    remove(checkpoint)


def prune(folder: Path, limit: int | None, spare: Collection[int | None] = ()) -> None:
    """Deletes the oldest whole checkpoints beyond a limit, if there is one; torn and spared ones do not count."""
    if not limit or limit < 0:
        return
    whole = [path for path in in_order(folder) if is_sealed(path) and step_of(path) not in spare]
    for path in whole[:-limit]:
        discard(path)


def file_entry(path: Path) -> dict[str, Any]:
    """Returns size and hash of a file."""
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _synced_entry(path: Path) -> Mapping[str, Any]:
    sync(path)
    return file_entry(path)


def _file_damage(checkpoint: Path, name: str, size: int, digest: str) -> str | None:
    path = checkpoint / name
    try:
        if not path.resolve().is_relative_to(checkpoint.resolve()):
            return f"{MANIFEST} names a file outside of it"
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is missing"
        if status.st_size != size:
            return f"{name} has {status.st_size:,} bytes instead of {size:,}"
        return None if file_entry(path)["sha256"] == digest else f"{name} has other content than was written"
    except OSError as error:
        return _not_there(error, path, f"{name} is missing")
    except (ValueError, RuntimeError) as error:  # no name of a file, or a link to itself
        return f"{name} cannot be read ({why_unreadable(error)})"


def _not_there(error: OSError, path: Path, damage: str) -> str:
    """Returns the damage if the error shows it; else raises, since a disk that fails now may still hold every byte."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return damage
    raise MachineError(f"cannot read {path} now: {why_unreadable(error)}; put that right and try again.") from error
