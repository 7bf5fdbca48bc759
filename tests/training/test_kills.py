"""Tests SIGKILL at any moment, then --resume: log and weights equal those of a run that was not killed."""

from __future__ import annotations

import random
import signal
import time

import pytest
from support.killing import CASES, finish, killed_then_resumed, outcome, rlif_process, start, start_two, train_arguments
from support.sabotage import die_at, die_halfway, die_in_a_draft, die_in_a_line, die_in_backward

SAVE = "transformers.modeling_utils:safe_save_file"
ADAPTER = "peft.peft_model:safe_save_file"

# Where the run is killed in the third of four steps. Every step writes a checkpoint; the last two are kept.
POINTS = {
    "while generating": (die_at, "transformers.models.qwen2.modeling_qwen2:Qwen2ForCausalLM.forward", 15),
    "before a reward": (die_at, "rlif.engines.trl.rewards:InternalReward.__call__", 3),
    "in the middle of a backward pass": (die_in_backward, 5),
    "after an optimiser step": (die_at, "torch.optim:AdamW.step", 3, "after"),
    "before completions are in place": (die_at, "rlif.runs.folder:write_rows", 3),
    "in the middle of a line of the log": (die_in_a_line, 3),
    "after a line of the log": (die_at, "rlif.runs.folder:Run.append_metrics", 3, "after"),
    "half of the weights written": (die_halfway, SAVE, 3),
    "half of the optimiser written": (die_halfway, "torch:save", 10),
    "half of the trainer's state written": (die_halfway, "transformers:TrainerState.save_to_json", 3),
    "everything written but the manifest": (die_at, "rlif.engines.trl.checkpointing:seal", 3),
    "half of the manifest written": (die_in_a_draft, "manifest.json", 3),
    "before old checkpoints are deleted": (die_at, "rlif.engines.trl.checkpointing:prune", 3),
    "in the middle of deleting one": (die_at, "rlif.files.inside:shutil.rmtree", 2),
    "half of the trained model written": (die_halfway, SAVE, 5),
    "before the summary": (die_at, "rlif.runs.folder:Run.write_summary", 1),
}
# Kills one after the other in one run; calls are counted from the latest resume.
AGAIN_AND_AGAIN = [
    (die_at, "rlif.training.session:build", 1),  # before the first step; no checkpoint exists yet
    (die_halfway, SAVE, 1),
    (die_in_a_line, 2),
    (die_halfway, SAVE, 1),
    (die_at, "rlif.runs.folder:discard", 1),  # while a resume deletes what came after the checkpoint
    (die_in_backward, 1),
    (die_at, "rlif.engines.trl.checkpointing:seal", 2),
    (die_halfway, "transformers:TrainerState.save_to_json", 2),
    (die_halfway, SAVE, 1),
    (die_at, "rlif.runs.folder:Run.write_summary", 1),
]
MID = {
    "lora": (die_halfway, ADAPTER, 3),
    "rloo": (die_in_backward, 5),
    "two iterations": (die_at, "transformers:GenerationMixin.generate", 3),  # the first tries the settings
    "cosine over two epochs": (die_at, "rlif.engines.trl.checkpointing:seal", 3),
    "an epoch and three quarters": (die_in_backward, 7),
    "epochs that end with half an update": (die_at, "torch.optim:AdamW.step", 4),
    "evaluated": (die_at, "rlif.runs.folder:Run.write_evaluation", 3),
    "ema annotator": (die_halfway, "torch:save", 10),
    "rewards mixed by a schedule": (die_in_backward, 5),
    "stopped by the guard": (die_at, "rlif.runs.folder:Run.write_summary", 1),
    "rolled back by the guard": (die_at, "rlif.runs.rollback:Run.rewind", 1, "after"),
}
KILLED = -signal.SIGKILL


def end_of(case: str) -> int:
    """The exit code of a run of this case without kills."""
    return 3 if "by the guard" in case else 0


@pytest.fixture(scope="session")
def whole(tmp_path_factory, model_folder):
    """Gives the outcome of a run without kills, by case."""
    found = {}

    def run(case: str):
        if case not in found:
            folder = tmp_path_factory.mktemp("whole")
            code, said = rlif_process(train_arguments(model_folder, folder, *CASES[case]), folder / "log")
            assert code == end_of(case), said
            found[case] = outcome(folder / "run")
            steps = 3 if "by the guard" in case else 4
            assert found[case]["weights"] and len(found[case]["metrics"]) == steps
        return found[case]

    return run


def after_kills(case, tmp_path, model_folder, *saboteurs):
    """The outcome of a run that each saboteur killed in turn, and that was resumed each time."""
    arguments = train_arguments(model_folder, tmp_path, *CASES[case])
    return outcome(killed_then_resumed(arguments, tmp_path, saboteurs, end_of(case)))


@pytest.mark.sweep
def test_a_run_killed_again_and_again(tmp_path, model_folder, whole):
    assert after_kills("full", tmp_path, model_folder, *AGAIN_AND_AGAIN) == whole("full")


@pytest.mark.sweep
@pytest.mark.parametrize("case", sorted(MID))
def test_every_kind_of_run_resumes_exactly(case, tmp_path, model_folder, whole):
    assert after_kills(case, tmp_path, model_folder, MID[case]) == whole(case)


@pytest.mark.sweep
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point, tmp_path, model_folder, whole):
    assert after_kills("full", tmp_path, model_folder, POINTS[point]) == whole("full")


@pytest.mark.sweep
@pytest.mark.parametrize("moment", range(5))
@pytest.mark.parametrize("case", ["full", "lora", "rloo", "two iterations"])
def test_killed_at_a_random_moment(case, moment, tmp_path, model_folder, whole, record_property):
    """The parent kills it between its first and last second; every second test also kills the resume."""
    expected, chance = whole(case), random.Random(f"{case} {moment}")
    arguments, kills = train_arguments(model_folder, tmp_path, *CASES[case]), 0
    for _ in range(1 + moment % 2):
        going = start(arguments, tmp_path / "log")
        while not (tmp_path / "run" / "recipe.yaml").is_file() and going.is_alive():
            time.sleep(0.001)
        going.join(chance.uniform(0, 4.0))
        going.kill()
        kills += finish(going) == KILLED
        arguments = ["train", "--resume", tmp_path / "run"]
    if kills:
        code, said = rlif_process(arguments, tmp_path / "log")
        assert code == 0, said
    record_property("kills", kills)
    assert outcome(tmp_path / "run") == expected


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("case", "saboteur"),
    [
        ("full", (die_halfway, "torch:save", 7)),
        ("full", (die_in_backward, 3)),
        ("rolled back by the guard", (die_at, "rlif.runs.rollback:Run.append", 1)),
    ],
)
def test_two_processes(case, saboteur, tmp_path, model_folder):
    """Each process is killed, or ends because the other one was killed; then both are resumed."""
    ends = {}
    for name in ("whole", "killed"):
        arguments = train_arguments(model_folder, tmp_path / name, "training.max_steps=3", *CASES[case])
        processes = start_two(arguments, tmp_path / f"{name}.log", *([saboteur] if name == "killed" else []))
        codes = [finish(process) for process in processes]
        if name == "killed":
            assert KILLED in codes
            arguments = ["train", "--resume", tmp_path / name / "run"]
            codes = [finish(process) for process in start_two(arguments, tmp_path / "resumed.log")]
        assert codes == [end_of(case)] * 2, "".join(path.read_text() for path in tmp_path.glob("*.[01]"))
        ends[name] = outcome(tmp_path / name / "run")
    assert ends["killed"] == ends["whole"]


@pytest.mark.sweep
def test_killed_before_there_was_a_run_folder(tmp_path, model_folder):
    arguments = train_arguments(model_folder, tmp_path, "training.max_steps=1")
    code, _ = rlif_process(arguments, tmp_path / "log", (die_at, "rlif.runs.folder:_moved", 1))
    assert code == KILLED and not (tmp_path / "run").exists()
    code, said = rlif_process(arguments, tmp_path / "log")
    assert code == 0, said
