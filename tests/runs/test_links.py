"""Tests that nothing is read, written or deleted through a symbolic link that leads out of a run folder."""

from __future__ import annotations

import contextlib
import random
import re
import shutil

import pytest
from support.folders import make_run
from typer.testing import CliRunner

from rlif.cli.main import app
from rlif.errors import DataError, MachineError, RlifError
from rlif.evaluation.grid import candidates
from rlif.files.atomic import replace_file
from rlif.files.inside import remove
from rlif.files.lock import locked
from rlif.runs.checkpoints import discard, in_order, prune, seal
from rlif.runs.folder import FILES, Run
from rlif.runs.history import read_history

BELOW = (
    *("completions/step-000001.jsonl", "eval/step-000000-clock.json", "checkpoints/checkpoint-1"),
    *("checkpoints/checkpoint-1/manifest.json", ".lock", ".model.draft", ".summary.json.draft", "model/config.json"),
)
FOLDERS = (*("completions", "eval", "errors", "checkpoints", "model"), *("checkpoints/checkpoint-1", ".model.draft"))
COMMANDS = {
    "report": ["report"],
    "watch": ["watch", "--once"],
    "compare": ["compare"],
    "resume": ["train", "--resume"],
    "launch": ["launch", "--processes", "2", "--resume"],
    "eval": ["eval", "--tasks", "clock"],
}


@pytest.fixture
def run(tmp_path) -> Run:
    """A run folder with a file at each place, and the folder `outside` beside it."""
    run = Run(make_run(tmp_path / "run", steps=2, every=2))
    (tmp_path / "outside").mkdir()
    for name in (*sorted(FILES), *BELOW):
        path = run.path / name
        folder = path if name in FOLDERS else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if folder != path:
            path.touch()
    return run


def lead_out(run, name):
    """Moves a file of the run out of its folder and puts a link in its place; returns the new place."""
    target = run.path.parent / "outside" / name.replace("/", " ")
    shutil.move(run.path / name, target)
    (run.path / name).symlink_to(target)
    return target


def state(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("name", [*sorted(FILES), *BELOW])
def test_a_link_that_leads_out_is_refused_with_its_target(name, run):
    assert Run.open(run.path)
    target = lead_out(run, name)
    before = state(target.parent)
    said = re.escape(f"{run.path / name} is a symbolic link to {target}, which is outside of {run.path}")
    with pytest.raises(DataError, match=said):
        Run.open(run.path)
    assert state(target.parent) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_it(command, run):
    target = lead_out(run, "report.html" if command == "report" else "completions")
    before = state(run.path), state(target.parent)
    done = CliRunner().invoke(app, [*COMMANDS[command], str(run.path)])
    assert isinstance(done.exception, DataError) and f"is a symbolic link to {target}" in str(done.exception)
    assert (state(run.path), state(target.parent)) == before


def test_a_model_of_a_run_is_not_evaluated_through_a_link(run, tmp_path):
    for name in ("model", "checkpoints/checkpoint-1"):
        lead_out(run, name)
        with pytest.raises(DataError, match="is a symbolic link to"):
            candidates(str(run.path / name), tmp_path)
        (run.path / name).unlink()


def test_a_link_that_comes_while_a_run_goes_is_not_followed(run):
    """The run is open already. Everything that it writes or deletes refuses the link, or removes only the link."""
    for name in ("completions", "eval", "errors", "metrics.jsonl", "checkpoints/checkpoint-1", ".model.draft"):
        lead_out(run, name)
    outside = run.path.parent / "outside"
    before = state(outside)
    for use in (
        lambda: run.write_completions(9, [{"a": 1}]),
        lambda: run.write_evaluation(9, "clock", {}, []),
        lambda: run.write_traceback(9, "text"),
        lambda: run.append_metrics({"step": 9}),
        run.metrics,
        run.remove_torn,
        lambda: run.rewind(0),
        lambda: in_order(run.checkpoints),
        lambda: prune(run.checkpoints, 1),
    ):
        with pytest.raises(DataError, match="is a symbolic link to"):
            use()
    discard(run.path / "checkpoints/checkpoint-1")
    remove(run.path / "completions")
    run.write_summary({"steps": 1})
    assert state(outside) == before and not (run.path / "completions").is_symlink()


def test_the_draft_of_a_file_and_the_lock_are_not_written_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (tmp_path / ".x.json.draft").symlink_to(outside)
    replace_file(tmp_path / "x.json", "new")
    (tmp_path / ".lock").symlink_to(outside)
    with (
        pytest.raises(MachineError, match=r"\.lock is a symbolic link to .*outside; remove the link"),
        locked(tmp_path),
    ):
        pass
    assert outside.read_text() == "kept" and (tmp_path / "x.json").read_text() == "new"
    assert not (tmp_path / "x.json").is_symlink()


def test_links_inside_the_folder_and_links_of_the_users_own_are_fine(run, tmp_path):
    (run.path / "completions").rename(run.path / "kept")
    (run.path / "completions").symlink_to("kept")
    (run.path / "notes").symlink_to(tmp_path / "outside")
    (tmp_path / "linked").symlink_to(run.path)
    for path in (run.path, tmp_path / "linked"):
        opened = Run.open(path)
        opened.write_completions(7, [{"a": 1}])
        assert (run.path / "kept/step-000007.jsonl").is_file()
        opened.rewind(2)
        assert not (run.path / "kept/step-000007.jsonl").exists()


def test_a_checkpoint_behind_a_link_inside_is_discarded_as_a_link(run):
    real = run.path / "elsewhere-in-the-run" / "checkpoint-5"
    real.mkdir(parents=True)
    (real / "weights").write_text("1")
    seal(real)
    (run.checkpoints / "checkpoint-5").symlink_to(real)
    assert run.good_checkpoint()[0] == run.checkpoints / "checkpoint-5"
    discard(run.checkpoints / "checkpoint-5")
    assert not (run.checkpoints / "checkpoint-5").exists() and (real / "manifest.json").is_file()


TARGETS = ("../outside/file", "../outside/folder", "../outside/nothing", "..", ".", "metrics.jsonl", "eval", "loop")


@pytest.mark.parametrize("cases", [40, pytest.param(2000, marks=pytest.mark.sweep)])
def test_whatever_is_a_link_to_whatever(cases, run, tmp_path, record_property):
    """It is refused in a sentence or used, and nothing outside is changed."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir()
    for name in ("file", "folder/step-000001.jsonl", "folder/manifest.json"):
        (outside / name).write_text('{"step": 1}\n')
    before, chance = state(outside), random.Random(cases)
    for _ in range(cases):
        copy = Run(tmp_path / "copy")
        shutil.rmtree(copy.path, ignore_errors=True)
        shutil.copytree(run.path, copy.path)
        for name in chance.sample([*sorted(FILES), *BELOW, "loop"], chance.randint(1, 3)):
            place = (copy.path / name).parent
            if place.is_dir() and not any(above.is_symlink() for above in (place, place.parent)):
                remove(copy.path / name)
                (copy.path / name).symlink_to(chance.choice(TARGETS))
        for use in (
            copy.remove_torn,
            lambda copy=copy: copy.rewind(0),
            lambda copy=copy: copy.write_completions(1, [{"a": 1}]),
            lambda copy=copy: copy.write_evaluation(1, "cups", {}, []),
            lambda copy=copy: copy.append_metrics({"step": 1}),
            lambda copy=copy: copy.write_summary({"steps": 1}),
            lambda copy=copy: copy.write_traceback(1, "text"),
        ):
            with contextlib.suppress(OSError, RlifError):
                use()
        with contextlib.suppress(RlifError):
            read_history(copy.path)
        assert state(outside) == before
    record_property("cases", cases)
