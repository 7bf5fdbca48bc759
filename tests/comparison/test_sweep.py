"""Tests `rlif compare` from recipes to table, on a tiny random model: runs, resumes after a kill, never repeats."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from support.folders import write_json
from typer.testing import CliRunner

import rlif
from rlif.cli.main import app
from rlif.comparison.comparison import compare
from rlif.comparison.table import FORMATS
from rlif.runs.folder import Run
from rlif.training import lifecycle as training

SMALL = {
    "task": "clock", "prompt": "plain", "problems_per_update": 2, "max_prompt_tokens": 1024,
    "evaluate": {"tasks": ["clock", "cups"], "limit": 4, "batch_size": 8},
    "training": {
        "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 8, "max_steps": 2,
        "save_steps": 1, "warmup_steps": 0, "learning_rate": 1e-3, "log_level": "error", "use_cpu": True, "bf16": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folder) -> Path:
    """Runs two recipes that differ in one line, both with seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, reward in (("sure", "self_certainty"), ("dice", "random")):
        write_json(folder / f"{name}.yaml", SMALL | {"model": str(model_folder), "reward": reward})
    done = call(folder, folder / "runs")
    assert done.exit_code == 0, done.output
    return folder


def recipes(place: Path) -> list[Path]:
    return [place / "sure.yaml", place / "dice.yaml"]


def call(place: Path, folder: Path, *options: object):
    return CliRunner().invoke(app, ["compare", *map(str, [*recipes(place), "--folder", folder, "--seeds=2", *options])])


def raising(error: BaseException):
    def fails(*_, **__):
        raise error

    return fails


def tables(found) -> list[str]:
    return [FORMATS[end](found) for end in (".md", ".csv")]


def timeless(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "step_seconds"} for row in Run.open(run).metrics()]


def test_two_recipes_on_two_seeds(place):
    found = compare([place / "runs"], against="sure")
    assert sorted(path.name for path in (place / "runs").iterdir()) == [
        "dice-seed0", "dice-seed1", "sure-seed0", "sure-seed1"
    ]  # fmt: skip
    assert [(row.task, row.method, row.seeds) for row in found.rows] == [
        (task, method, [0, 1]) for task in ("clock", "cups") for method in ("dice", "sure")
    ]
    assert found.differences["dice"] == {"reward": "random"}
    assert found.notes == []  # the same problems, in the same order, for both
    problems = {run.label: run.first_problems for run in found.runs}
    assert problems["sure seed 0"] == problems["dice seed 0"] != problems["sure seed 1"]
    assert problems["sure seed 1"] == problems["dice seed 1"] and len(problems["sure seed 1"]) == 2
    assert all(row.kl is not None and row.problems == 4 for row in found.rows)


def test_finished_runs_are_read_and_not_run_again(place, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("was trained again"))
    found = compare(recipes(place), seeds=[0, 1], folder=place / "runs")
    assert found.methods == ["sure", "dice"]
    read = compare([place / "runs" / f"{name}-seed{seed}" for name in ("sure", "dice") for seed in (0, 1)])
    assert tables(found) == tables(read)


@pytest.mark.sweep
def test_a_killed_sweep_resumes_to_the_same_table(place, tmp_path):
    """Of four runs one is killed after its first checkpoint, one before it, and one has not begun."""
    folder = shutil.copytree(place / "runs", tmp_path / "runs")
    half, barely = Run.open(folder / "sure-seed0"), Run.open(folder / "dice-seed0")
    for run in (half, barely):
        (run.path / "summary.json").unlink()
        shutil.rmtree(run.model)
    shutil.rmtree(half.checkpoints / "checkpoint-2")
    shutil.rmtree(barely.checkpoints)
    shutil.rmtree(folder / "dice-seed1")
    finished = (folder / "sure-seed1/summary.json").stat().st_mtime_ns
    before = compare([folder])
    assert before.rows[0].seeds == [] and "dice seed 0: unfinished, at step 2 of 2." in before.notes
    done = call(place, folder)
    assert done.exit_code == 0 and "sure-seed1, 3 of 4: finished, read" in done.output
    assert (folder / "sure-seed1/summary.json").stat().st_mtime_ns == finished
    for name in ("sure-seed0", "dice-seed0", "dice-seed1"):
        assert timeless(folder / name) == timeless(place / "runs" / name)
    assert tables(compare([folder])) == tables(compare([place / "runs"]))


def test_seeds_come_first_so_that_methods_can_be_compared_early(place, tmp_path, monkeypatch):
    """Ctrl-C in the third run leaves one seed of both methods."""
    begun = []

    def train(recipe, **_):
        begun.append(recipe.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        shutil.copytree(place / "runs" / recipe.name, Path(recipe.output) / recipe.name)

    monkeypatch.setattr(training, "train", train)
    with pytest.raises(KeyboardInterrupt):
        compare(recipes(place), seeds=[0, 1], folder=tmp_path)
    assert begun == ["sure-seed0", "dice-seed0", "sure-seed1"]
    assert [row.seeds for row in compare([tmp_path]).rows] == [[0]] * 4


def test_a_failed_run_is_a_row_and_the_others_continue(place, tmp_path):
    broken = json.loads((place / "sure.yaml").read_text()) | {"model": "./nowhere"}
    write_json(tmp_path / "broken.yaml", broken)
    folder = shutil.copytree(place / "runs", tmp_path / "runs")
    arguments = [
        tmp_path / "broken.yaml",
        place / "sure.yaml",
        "--folder",
        folder,
        "--seeds=2",
        f"--out={tmp_path}/t.md",
    ]
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert done.exit_code == 1
    assert "broken seed 1: failed: no such model folder" in done.output
    text = (tmp_path / "t.md").read_text()
    assert "| broken | 0; 2 failed | - |" in text and "| sure | 2 (0, 1) | 4 |" in text


def test_a_failed_run_is_resumed_by_the_same_comparison(place, tmp_path, monkeypatch):
    """Not by `rlif train`. A run without a step gives way to a changed recipe, one with steps does not."""
    session = "rlif.training.lifecycle.open_session"
    monkeypatch.setattr(session, raising(MemoryError()))
    found = compare([place / "sure.yaml"], seeds=[0], folder=tmp_path)
    path = tmp_path / "sure-seed0"
    assert path.is_dir() and found.notes[0].endswith(" in the recipe and give the same command again.")
    changed = ["training.per_device_train_batch_size=2"]
    again = compare([place / "sure.yaml"], seeds=[0], overrides=changed, folder=tmp_path)
    assert again.notes[0].endswith(" in the recipe and give the same command again.")
    shutil.copytree(place / "runs" / "sure-seed0", path, dirs_exist_ok=True)
    with pytest.raises(rlif.RlifError, match="give another --folder, or remove it"):
        compare([place / "sure.yaml"], seeds=[0], overrides=changed, folder=tmp_path)


def test_ctrl_c_in_a_run_says_to_give_the_comparison_again(place, tmp_path, monkeypatch):
    monkeypatch.setattr("rlif.training.lifecycle.open_session", raising(KeyboardInterrupt()))
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(KeyboardInterrupt):
        compare([place / "sure.yaml"], seeds=[0], folder=tmp_path, console=console)
    said = console.file.getvalue()
    assert "what the run had saved is kept; give the same command again" in said and "rlif train" not in said


def test_a_folder_that_is_not_a_run_is_refused_before_anything_runs(place, tmp_path):
    (tmp_path / "sure-seed0").mkdir()
    (tmp_path / "sure-seed0/notes.txt").write_text("mine")
    with pytest.raises(rlif.RlifError, match="sure-seed0 is not a run folder; give another --folder, or remove it"):
        compare([place / "sure.yaml"], seeds=[0], folder=tmp_path)


def test_a_run_stopped_by_the_guard_is_noted(place, tmp_path):
    stop = {"policy": "stop", "start": 1, "window": 1, "patience": 1, "kl": 1e-12}
    recipe = json.loads((place / "sure.yaml").read_text())
    write_json(tmp_path / "stops.yaml", recipe | {"guard": stop, "training": recipe["training"] | {"max_steps": 4}})
    found = rlif.compare([tmp_path / "stops.yaml"], seeds=[0], folder=tmp_path / "runs")
    outcome = found.rows[0].outcomes[0]
    assert outcome.state == "stopped" and outcome.counts and outcome.alarm is not None and outcome.alarm.sign == "kl"
    assert outcome.end_step is not None and outcome.end_step < 4
    assert found.notes[0].startswith(f"stops seed 0: ended by the guard at step {outcome.end_step}: KL")


def test_unknown_names_are_refused_before_anything_runs(place, tmp_path):
    for key, wrong, nearest in (("reward", "likelyhood", "likelihood"), ("task", "clok", "clock")):
        write_json(tmp_path / "wrong.yaml", json.loads((place / "sure.yaml").read_text()) | {key: wrong})
        with pytest.raises(rlif.RlifError, match=f"did you mean '{nearest}'"):
            compare([place / "dice.yaml", tmp_path / "wrong.yaml"], folder=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_that_cannot_be_made_is_noted(place, tmp_path):
    (tmp_path / "file").write_text("")
    found = compare([place / "sure.yaml"], seeds=[0], folder=tmp_path / "file")
    assert "cannot make the run folder" in found.notes[0] and found.rows[0].seeds == []


@pytest.mark.sweep
def test_a_failed_start_of_another_recipe_does_not_block(place, tmp_path):
    """A run that took no step is no run; one that took a step is refused."""
    other = rlif.load_recipe(place / "sure.yaml", [f"output={tmp_path}", "name=dice-seed0", "training.beta=0.7"])
    with pytest.raises(rlif.RlifError, match="holds a run with"):
        Run.create(other, "").append_metrics({"step": 1})
        compare([place / "dice.yaml"], seeds=[0], folder=tmp_path)
    (tmp_path / "dice-seed0/metrics.jsonl").unlink()
    assert compare([place / "dice.yaml"], seeds=[0], folder=tmp_path).runs[0].state == "finished"


def test_a_run_of_rlif_train_is_read(place, tmp_path):
    recipe = rlif.load_recipe(place / "dice.yaml", ["seed=1", f"output={tmp_path}", "name=seed1"])
    (tmp_path / "throw").mkdir()
    rlif.train(recipe.model_copy(update={"output": str(tmp_path / "throw")}), console=Console(quiet=True))
    found = compare([tmp_path, place / "runs"])
    same = {row.method: row.outcomes[-1] for row in found.rows if row.task == "clock"}
    assert found.methods == ["throw", "dice", "sure"] and same["throw"] == same["dice"]
