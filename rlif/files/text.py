"""Opens data files as UTF-8, however they are compressed and in whichever Unicode encoding they are.

The suffix tells the compression: .gz, .bz2, .xz or .zst. The first bytes tell UTF-8, UTF-16 and UTF-32, with a mark and
without. Other encodings are refused, since nothing in a file tells them apart.
"""

import bz2
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rlif.errors import DataError

PACKED = (".gz", ".bz2", ".xz", ".zst")
UNREADABLE = (OSError, EOFError, ValueError, RecursionError, zlib.error, lzma.LZMAError)  # while a file is read
HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def kind_of(path: Path) -> str:
    """Returns a file's suffix without that of its compression.

    Example:
        >>> kind_of(Path("rows.jsonl.gz"))
        '.jsonl'
    """
    return Path(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


def open_bytes(path: Path) -> io.BufferedReader:
    """Opens a file, decompressed."""
    packed = path.suffix.lower()
    if packed == ".zst":
        import pyarrow  # the standard library has it from Python 3.14 on

        with pyarrow.input_stream(str(path), compression="zstd") as stream:
            return _buffered(stream.read())
    opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(packed)
    return io.BufferedReader(cast(Any, opened(path))) if opened else path.open("rb")


def open_utf8(path: Path) -> io.BufferedReader:
    """Opens a file or a pipe of text, decompressed and as UTF-8 without a mark."""
    file = open_bytes(path)
    try:
        encoding = json.detect_encoding(file.peek(4)[:4])
        if encoding.startswith("utf-8"):
            file.read(3 if encoding == "utf-8-sig" else 0)
            return file
        with file:
            return _buffered(file.read().decode(encoding).encode())
    except BaseException:
        file.close()
        raise


def _buffered(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(cast(Any, io.BytesIO(data)))


def check_text(value: Any, where: str) -> None:
    r"""Refuses halves of characters at any depth, as JSON's `\ud800`; the message begins with `where`."""
    try:
        whole = _whole(value)
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply.") from error
    if not whole:
        raise DataError(f"{where} holds half of a character (a lone surrogate, as \\ud800); write the whole one.")


def _whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or not HALF_CHARACTER.search(value)
    if isinstance(value, Mapping):
        return all(map(_whole, value)) and all(map(_whole, value.values()))
    return not isinstance(value, list | tuple) or all(map(_whole, value))
