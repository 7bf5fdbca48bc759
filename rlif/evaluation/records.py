"""Keeps the records of an evaluation on disk, batch by batch, so that a kill loses no batch that was written.

<name>.part.jsonl   while it goes on: the settings in the first line, then a line per batch, {batch, records}
<name>.jsonl        when it is finished: a line per completion, in the order of the problems
<name>.json         the scores, written last
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rlif.errors import DataError, MachineError
from rlif.files.atomic import finite, read_object, replace_file, write_rows, writing
from rlif.files.jsonl import JsonLog, different, plain
from rlif.sampling.protocol import Record


class Records:
    """Appends batches of records, and reads them back when an evaluation is resumed."""

    def __init__(self, folder: Path | None, name: str):
        self.folder, self.name = folder, name
        self.batches: dict[int, list[Record]] = {}
        self._log = None if folder is None else JsonLog(folder / f"{name}.part.jsonl")

    @classmethod
    def open(cls, folder: Path | None, name: str, settings: Mapping[str, Any]) -> Self:
        """Begins an evaluation, or resumes the one in the folder.

        Raises:
            DataError: the one in the folder has other settings.
            MachineError: the folder cannot be written.
        """
        records = cls(folder, name)
        if folder is None:
            return records
        try:
            folder.mkdir(parents=True, exist_ok=True)
            records._resume(plain(settings))
        except OSError as error:
            raise MachineError(f"cannot write to {folder}: {error.strerror}.") from error
        return records

    @staticmethod
    def finished(folder: Path, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Reads the scores of a finished evaluation; None if there is none. Settings it lacks count as equal.

        Raises:
            DataError: it has other settings.
        """
        path = folder / f"{name}.json"
        if not path.is_file():
            return None
        scores = read_object(path)
        compared = set(settings) & set(scores) - {"batch_size"}
        keys = different({key: scores[key] for key in compared}, plain({key: settings[key] for key in compared}))
        if keys:
            raise DataError(f"{path} has another {keys}; write to another folder, or give --overwrite.")
        return scores

    def _resume(self, settings: Mapping[str, Any]) -> None:
        """Reads the batches of an evaluation that was killed, or begins a new file with its settings."""
        assert self._log is not None
        path = self._log.path
        try:
            lines = [row for _, row in self._log.rows()]
            begun = dict(lines[0]["settings"]) if lines else settings
            self.batches = {int(line["batch"]): [dict(record) for record in line["records"]] for line in lines[1:]}
        except (DataError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{path} is damaged; remove it to start this evaluation anew.") from error
        if keys := different(begun, settings):
            raise DataError(f"{path} was begun with another {keys}; remove it, or write to another folder.")
        self._log.cut()
        if not lines:
            self._log.append({"settings": settings})

    def has(self, batch: int) -> bool:
        return batch in self.batches

    def __len__(self) -> int:
        return sum(len(records) for records in self.batches.values())

    def append(self, batch: int, records: Sequence[Record]) -> None:
        self.batches[batch] = list(records)
        if self._log is None:
            return
        try:
            self._log.append(finite({"batch": batch, "records": list(records)}))
        except OSError as error:
            raise MachineError(
                f"cannot write {self._log.path}: {error.strerror}; what is in it stays, run the same command to go on."
            ) from error

    def finish(self, order: Callable[[Record], Any]) -> list[Record]:
        """Sorts all records."""
        return sorted((record for records in self.batches.values() for record in records), key=order)

    def conclude(self, scores: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
        """Writes the final records and scores, and returns the scores; without a folder the records are among them."""
        if self.folder is None or self._log is None:
            return scores | {"records": list(records)}
        with writing(self.folder):
            write_rows(self.folder / f"{self.name}.jsonl", records)
            replace_file(self.folder / f"{self.name}.json", json.dumps(finite(scores), indent=2) + "\n")
            self._log.path.unlink()
        return scores
