"""Tells large files apart by a hash of parts of them, since reading weights whole takes minutes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

PARTS, LENGTH = 256, 2**14  # of each file, 4 MiB in all, evenly spaced from its first byte to its last


def sampled_hash(paths: Sequence[Path]) -> str:
    """Hashes names, sizes and parts of files. Training changes some byte of nearly every part of a file of weights.

    Example:
        >>> len(sampled_hash(sorted(Path("model").glob("*.safetensors"))))
        16
    """
    hashed = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        hashed.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for number in range(PARTS if size > PARTS * LENGTH else 1):
                file.seek((size - LENGTH) * number // (PARTS - 1) if number else 0)
                hashed.update(file.read(LENGTH if size > PARTS * LENGTH else size))
    return hashed.hexdigest()[:16]


def hash_weights(folder: Path) -> str | None:
    """Hashes the weights of a model folder; None where there are none, as for a name of the hub."""
    paths = sorted(path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin", ".gguf"))
    return sampled_hash(paths) if paths else None
