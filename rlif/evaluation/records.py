"""Keeps the records of an evaluation on disk, batch by batch, so that a kill loses no batch that was written.

<path>.part.jsonl   until it is finished: the settings in the first line, then a line per batch, {batch, records}
<path>.jsonl        when it is finished: a line per completion, in the order of the problems
<path>.json         the scores, written last
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlif.errors import DataError, MachineError
from rlif.evaluation.scores import Scores
from rlif.files.atomic import finite, read_object, replace_file, write_rows, writing
from rlif.files.jsonl import JsonLog, different, plain
from rlif.files.lock import alone
from rlif.sampling.protocol import Record

LATER = ("data", "content")  # settings that files of older versions lack


class Records:
    """Appends batches of records, and reads them back where the path holds part of an evaluation.

    Raises:
        DataError: that part has other settings.
        MachineError: nothing can be written there, or another process evaluates the same.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]):
        self.batches: dict[int, list[Record]] = {}
        self._path, self._log = path, JsonLog(_file(path, ".part.jsonl")) if path else None
        self.held = ExitStack()  # while it is open, no other process adds to the file
        if path is not None and self._log is not None:
            with writing(path), ExitStack() as held:
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(alone(self._log.path))
                self._resume(self._log, plain(settings))
                self.held = held.pop_all()

    @staticmethod
    def finished(path: Path, settings: Mapping[str, Any]) -> Scores | None:
        """Reads the scores of a finished evaluation; None if there is none. Settings that it lacks count as equal."""
        file = _file(path, ".json")
        if not file.is_file():
            return None
        scores = read_object(file)
        compared = set(settings) & set(scores) - {"batch_size"}
        keys = different({key: scores[key] for key in compared}, plain({key: settings[key] for key in compared}))
        if keys:
            raise DataError(f"{file} has other settings ({keys}); write to another folder, or give --overwrite.")
        try:
            found = Scores.read(scores)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{file} is damaged; remove it, or give --overwrite, to evaluate anew.") from error
        part = JsonLog(_file(path, ".part.jsonl"))
        with suppress(DataError, OSError):  # a kill came before it was removed
            if next((row for _, row in part.rows()), {}).get("settings") == plain(settings):
                part.path.unlink()
        return found

    def _resume(self, log: JsonLog, settings: Mapping[str, Any]) -> None:
        """Reads the batches of an evaluation that was killed, or begins a new file with its settings."""
        try:
            lines = [row for _, row in log.rows()]
            begun = {**lines[0]["settings"]} if lines else settings
            self.batches = {int(line["batch"]): [{**record} for record in line["records"]] for line in lines[1:]}
        except (DataError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{log.path} is damaged; remove it to start this evaluation anew.") from error
        known = {key: value for key, value in settings.items() if key in begun or key not in LATER}
        if keys := different(begun, known):
            raise DataError(
                f"{log.path} was begun with other settings ({keys}); remove it, or write to another folder."
            )
        log.cut()
        if not lines:
            log.append({"settings": settings})

    def __iter__(self) -> Iterator[Record]:
        return (record for records in self.batches.values() for record in records)

    def __len__(self) -> int:
        return sum(map(len, self.batches.values()))

    def append(self, batch: int, records: Sequence[Record]) -> None:
        """Adds the records of one batch."""
        self.batches[batch] = list(records)
        if self._log is None:
            return
        try:
            self._log.append(finite({"batch": batch, "records": records}))
        except OSError as error:
            raise MachineError(
                f"cannot write {self._log.path}: {error.strerror}; what is in it stays, run the same command to resume."
            ) from error

    def conclude(self, scores: Scores) -> Scores:
        """Writes the final records and scores, if there is a path; the records then leave memory."""
        if self._path is None or self._log is None:
            return scores
        with writing(self._path.parent):
            write_scores(self._path, scores)
            self._log.path.unlink()
        return replace(scores, records=())


def write_scores(path: Path, scores: Scores) -> None:
    """Writes records to `<path>.jsonl`, then scores to `<path>.json`."""
    write_rows(_file(path, ".jsonl"), scores.records)
    replace_file(_file(path, ".json"), json.dumps(finite(scores.as_dict()), indent=2) + "\n")


def _file(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
