"""Records of an evaluation on disk: one JSON line per completion, whole batches or nothing, nothing lost by a kill.

<name>.part.jsonl   while it goes on: the settings in the first line, then a line per batch, {batch, records}
<name>.jsonl        when it is finished: a line per completion, in the order of the problems
<name>.json         the scores, written last
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlif.errors import RlifError
from rlif.files.atomic import finite, read_object, replace_file, write_rows, writing

Record = dict[str, Any]


class Records:
    """Batches of records, appended as they come and read back when an evaluation goes on."""

    def __init__(self, folder: Path | None, name: str):
        self.folder, self.name = folder, name
        self.batches: dict[int, list[Record]] = {}
        self.file: Any = None

    @classmethod
    def open(cls, folder: Path | None, name: str, settings: Mapping[str, Any]) -> Self:
        """Begins, or goes on with what is there.

        Raises:
            RlifError: what is there was begun with other settings, or the folder cannot be written.
        """
        records = cls(folder, name)
        if folder is None:
            return records
        settings = json.loads(json.dumps(finite(settings)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            records._read(settings)
            records.file = records.part.open("a", encoding="utf-8")
            if not records.part.stat().st_size:
                records._write({"settings": settings})
        except OSError as error:
            raise RlifError(f"cannot write to {folder}: {error.strerror}.") from error
        return records

    @staticmethod
    def finished(folder: Path, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The scores of an evaluation that ended, None if there is none. What it does not say is taken as the same.

        Raises:
            RlifError: it had other settings.
        """
        path = folder / f"{name}.json"
        if not path.is_file():
            return None
        scores = read_object(path)
        settings = json.loads(json.dumps(finite(settings)))
        compared = set(settings) & set(scores) - {"batch_size"}
        keys = sorted(key for key in compared if scores[key] != settings[key])
        if keys:
            raise RlifError(f"{path} has another {', '.join(keys)}; write to another folder, or give --overwrite.")
        return scores

    @property
    def part(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.name}.part.jsonl"

    def _read(self, settings: Mapping[str, Any]) -> None:
        """Takes over the whole lines of an evaluation under way; a torn last one, of a kill, is cut off."""
        if not self.part.is_file():
            return
        data = self.part.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            head, *lines = [json.loads(line) for line in whole.splitlines()] or [None]
            begun = None if head is None else dict(head["settings"])
            self.batches = {int(line["batch"]): [dict(record) for record in line["records"]] for line in lines}
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise RlifError(f"{self.part} is damaged; remove it to start this evaluation anew.") from error
        if begun not in (None, settings):
            keys = sorted(key for key in {*begun, *settings} if begun.get(key) != settings.get(key))
            raise RlifError(
                f"{self.part} was begun with another {', '.join(keys)}; remove it, or write to another folder."
            )
        if len(whole) < len(data):
            with self.part.open("rb+") as file:
                file.truncate(len(whole))

    def has(self, batch: int) -> bool:
        return batch in self.batches

    def __len__(self) -> int:
        return sum(len(records) for records in self.batches.values())

    def append(self, batch: int, records: Sequence[Record]) -> None:
        self.batches[batch] = list(records)
        if self.file is not None:
            self._write({"batch": batch, "records": list(records)})

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            self.file.write(json.dumps(finite(line)) + "\n")
            self.file.flush()
        except OSError as error:
            raise RlifError(
                f"cannot write {self.part}: {error.strerror}; what is in it is kept, run the same command to go on."
            ) from error

    def finish(self, order: Callable[[Record], Any]) -> list[Record]:
        """All records, sorted."""
        return sorted((record for records in self.batches.values() for record in records), key=order)

    def conclude(self, scores: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
        """Writes records and scores where they stay, and returns the scores; with the records, where nothing stays."""
        if self.folder is None:
            return scores | {"records": list(records)}
        with writing(self.folder):
            write_rows(self.folder / f"{self.name}.jsonl", records)
            replace_file(self.folder / f"{self.name}.json", json.dumps(finite(scores), indent=2) + "\n")
            self.part.unlink()
        return scores

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()
