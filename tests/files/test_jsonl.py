"""The log of JSON lines that a killed process goes on with."""

from __future__ import annotations

import errno
import io
import threading
from pathlib import Path

import pytest

from rlif.errors import DataError
from rlif.files.jsonl import JsonLog, different, plain


def rows(log):
    return [row for _, row in log.rows()]


def test_rows_come_back_without_a_torn_line(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl", ascii=False)
    assert rows(log) == []
    log.append({"a": 1}, {"b": "猫"})
    whole = log.path.read_bytes()
    with log.path.open("ab") as file:
        file.write('{"c": "猫'.encode()[:-1])
    assert rows(log) == [{"a": 1}, {"b": "猫"}] and log.path.read_bytes() != whole
    log.cut()
    assert log.path.read_bytes() == whole
    log.append({"c": 3})
    assert [number for number, _ in log.rows()] == [1, 2, 3]


def test_a_damaged_line_is_named(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    log.path.write_text('{"a": 1}\nnot JSON\n{"b": 2}\n')
    with pytest.raises(DataError, match=r"line 2 of .*log.jsonl"):
        rows(log)


def test_a_log_is_cut_or_rewritten_and_never_made(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    log.cut(3)
    log.rewrite([{"a": 1}])
    log.sync()
    assert not log.path.exists()
    log.append(*({"step": step} for step in range(5)))
    log.cut(3)
    assert rows(log) == [{"step": 0}, {"step": 1}, {"step": 2}]
    log.rewrite(row for row in rows(log) if row["step"] != 1)
    assert rows(log) == [{"step": 0}, {"step": 2}]
    log.cut(0)
    assert log.path.read_bytes() == b""


def test_a_full_disk_leaves_no_half_of_a_line(tmp_path, monkeypatch):
    log = JsonLog(tmp_path / "log.jsonl")
    log.append({"a": 1})
    real = Path.open

    class Full(io.FileIO):
        def write(self, data):
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:20])

    def opened(path, mode="r", **options):
        return Full(path, "ab") if mode == "ab" else real(path, mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match="No space"):
        log.append({"b": "a line that is longer than what is left"})
    monkeypatch.undo()
    assert log.path.read_bytes() == b'{"a": 1}\n'


def test_threads_append_whole_lines(tmp_path):
    log = JsonLog(tmp_path / "log.jsonl")
    threads = [threading.Thread(target=log.append, args=({"n": n, "text": "x" * 10_000},)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(row["n"] for row in rows(log)) == list(range(16))


def test_settings_are_compared_as_a_file_holds_them():
    assert different(plain({"stop": ("a",), "seed": 1}), {"stop": ["a"], "seed": 1}) == ""
    assert different({"n": 4, "seed": 1}, {"seed": 2}) == "n, seed"
    assert different({"a\nb": 1}, {}) == r"'a\nb'"  # a sentence stays one line
