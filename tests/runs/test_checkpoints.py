"""Tests that a checkpoint is either whole or not used."""

from __future__ import annotations

import errno
import json
import os

import pytest
from support.folders import SUPERSCRIPT

import rlif
from rlif.runs import checkpoints
from rlif.runs.checkpoints import damage, in_order, is_sealed, prune, seal, step_of
from rlif.runs.folder import Run


def make(folder, step, sealed=True):
    path = folder / f"checkpoint-{step}"
    (path / "deep").mkdir(parents=True)
    (path / "weights").write_bytes(bytes(range(256)) * 10)
    (path / "deep" / "state").write_bytes(b"")
    if sealed:
        seal(path)
    return path


def test_a_sealed_checkpoint_has_a_manifest_and_no_damage(tmp_path):
    path = make(tmp_path, 10)
    assert is_sealed(path) and damage(path) is None
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["step"] == 10 and set(manifest["files"]) == {"weights", "deep/state"}


@pytest.mark.parametrize("at", [0, 1, 1280, 2559])
def test_any_changed_byte_is_reported_as_damage(tmp_path, at):
    path = make(tmp_path, 10)
    data = bytearray((path / "weights").read_bytes())
    data[at] ^= 1
    (path / "weights").write_bytes(data)
    assert damage(path) == "weights has other content than was written"


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda p: (p / "weights").write_bytes(b"short"), "weights has 5 bytes instead of 2,560"),
        (lambda p: (p / "deep" / "state").unlink(), "deep/state is missing"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda p: (p / "manifest.json").write_text('{"files": {"weights": 3}}'), "manifest.json cannot be read"),
        (lambda p: (p / "manifest.json").write_text('{"files": []}'), "manifest.json cannot be read"),
        (
            lambda p: (p / "manifest.json").write_text('{"files": {"../x": {"bytes": 1, "sha256": ""}}}'),
            "manifest.json names a file outside of it",
        ),
    ],
)
def test_each_kind_of_damage_is_named(tmp_path, harm, what):
    path = make(tmp_path, 10)
    harm(path)
    assert damage(path) == what


def test_prune_deletes_old_checkpoints_and_does_not_count_torn_ones(tmp_path):
    for step in (5, 10, 20, 100):
        make(tmp_path, step)
    make(tmp_path, 110, sealed=False)
    make(tmp_path, 120, sealed=False)
    prune(tmp_path, 2)
    assert [step_of(path) for path in in_order(tmp_path)] == [20, 100, 110, 120]
    prune(tmp_path, None)
    prune(tmp_path, 0)
    prune(tmp_path, 1, spare=[20])
    assert [step_of(path) for path in in_order(tmp_path)] == [20, 100, 110, 120]


def test_a_half_deleted_checkpoint_does_not_look_whole(tmp_path, monkeypatch):
    path = make(tmp_path, 5)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    checkpoints.discard(path)
    assert (path / "weights").exists() and not is_sealed(path)


def test_folders_and_files_with_other_names_are_ignored(tmp_path):
    for name in (
        "checkpoint-",
        "checkpoint-x",
        f"checkpoint-1{SUPERSCRIPT or 'x'}",
        "checkpoint--3",
        "checkpoint-" + "9" * 40,
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert in_order(tmp_path) == [] and in_order(tmp_path / "gone") == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_a_read_error_of_the_disk_is_not_taken_for_damage(number, tmp_path, monkeypatch):
    """Otherwise a resume would start from the checkpoint before and delete this one."""
    run = Run(tmp_path)
    make(run.checkpoints, 5)
    make(run.checkpoints, 10)
    whole = checkpoints.file_entry

    def entry(path):
        if path.parent.name == "checkpoint-10":
            raise OSError(number, os.strerror(number), str(path))
        return whole(path)

    monkeypatch.setattr(checkpoints, "file_entry", entry)
    with pytest.raises(rlif.RlifError, match=r"cannot read .*checkpoint-10/weights now: .*; put that right and try"):
        run.good_checkpoint()
    assert run.good_checkpoint(until=9)[0] == run.checkpoints / "checkpoint-5"


def test_names_in_a_manifest_that_are_not_files_are_reported_as_missing(tmp_path):
    path = make(tmp_path, 10)
    for name, what in (("deep", "deep is missing"), ("x" * 999, "x is missing"), ("weights/x", "weights/x is missing")):
        (path / "manifest.json").write_text(json.dumps({"files": {name: {"bytes": 1, "sha256": ""}}}))
        assert str(damage(path)).endswith(what)
