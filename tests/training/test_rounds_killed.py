"""Tests SIGKILL at any moment of a run in rounds, then --resume: the files equal those of a run that was not killed."""

from __future__ import annotations

import json

import pytest
from support.killing import killed_then_resumed, outcome, rlif_process
from support.sabotage import die_at, die_halfway, die_in_a_draft, die_in_a_line, die_in_backward
from support.small_rounds import SMALL, TIMES

SAVE = "transformers.modeling_utils:safe_save_file"

# Where the run is killed. It has two rounds of two steps, each step with a checkpoint.
POINTS = {
    "while it samples": (die_at, "transformers:GenerationMixin.generate", 3),
    "half of the settings of sampling written": (die_in_a_draft, "sampling.json", 2),
    "before the data are in place": (die_at, "rlif.engines.rounds.examples:write_examples", 2),
    "half of the data written": (die_in_a_draft, "data.jsonl", 2),
    "before what is known of the round": (die_in_a_draft, "round.json", 1),
    "in the middle of a backward pass": (die_in_backward, 3),
    "after an optimiser step": (die_at, "torch.optim:AdamW.step", 4, "after"),
    "in the middle of a line of the log": (die_in_a_line, 3),
    "before completions are in place": (die_at, "rlif.runs.folder:write_rows", 2),
    "half of the weights written": (die_halfway, SAVE, 2),
    "half of the trainer's state written": (die_halfway, "transformers:TrainerState.save_to_json", 3),
    "everything of a checkpoint but the manifest": (die_at, "rlif.engines.trl.checkpointing:seal", 2),
    "before the model of a round is copied": (die_at, "rlif.runs.phase:copy_model", 1),
    "after it is copied": (die_at, "rlif.runs.phase:copy_model", 2, "after"),
    "before it is sealed": (die_at, "rlif.runs.phase:seal", 1),
    "half of its manifest written": (die_in_a_draft, "manifest.json", 3),
    "before the work of the round is removed": (die_at, "rlif.runs.phase:seal", 1, "after"),
    "while old models are removed": (die_at, "rlif.training.rounds.phases:prune", 2),
    "before an evaluation is written": (die_at, "rlif.runs.folder:Run.write_evaluation", 2),
    "before the trained model is in place": (die_at, "rlif.training.lifecycle:write_card", 1),
    "before the summary": (die_at, "rlif.runs.folder:Run.write_summary", 1),
}
AGAIN_AND_AGAIN = [
    (die_at, "transformers:GenerationMixin.generate", 2),
    (die_in_a_draft, "round.json", 1),
    (die_in_backward, 2),
    (die_at, "rlif.runs.phase:seal", 1),
    (die_at, "rlif.runs.folder:discard", 1),  # while a resume removes the model that was not sealed
    (die_halfway, SAVE, 1),
    (die_at, "rlif.runs.folder:Run.write_evaluation", 1),
    (die_at, "rlif.runs.folder:Run.write_summary", 1),
]
ONLINE = (
    "online={after: each, problems_per_update: 2, training: {max_steps: 2, beta: 0.1, learning_rate: 1.0e-3,"
    " per_device_train_batch_size: 6}}"
)
CASES = {
    "sft": [],
    "dpo": ["algorithm=dpo", "rounds.reference=base", "rounds.against=random"],
    "restart": ["rounds.restart=base", "rounds.keep=2", "training.num_train_epochs=2"],
    "lora": ["lora={r: 4, target_modules: [q_proj]}", "algorithm=dpo", "rounds.reference=last"],
    "hybrid": [ONLINE],
}


def arguments(model, output, case):
    return ["train", "best-of-n-sft", *SMALL, f"model={model}", f"output={output}", "name=run", *CASES[case]]


def files(path):
    """All that equal runs have in common, but for times and the path of the run."""
    found = outcome(path)
    found["metrics"] = [{k: v for k, v in row.items() if k not in TIMES} for row in found["metrics"]]
    for file in sorted(path.glob("rounds/*/*")):
        if file.suffix == ".jsonl":
            found[str(file.relative_to(path))] = file.read_text(encoding="utf-8")
        elif file.name == "round.json":
            known = json.loads(file.read_text())
            found[str(file.relative_to(path))] = {k: v for k, v in known.items() if k not in TIMES}
        else:
            found[str(file.relative_to(path))] = None
    return found


@pytest.fixture(scope="session")
def whole(tmp_path_factory, model_folder):
    """Gives the files of a run without kills, by case."""
    found = {}

    def run(case: str):
        if case not in found:
            folder = tmp_path_factory.mktemp("whole")
            code, said = rlif_process(arguments(model_folder, folder, case), folder / "log")
            assert code == 0, said
            found[case] = files(folder / "run")
            assert found[case]["weights"] and found[case]["rounds/round-002/data.jsonl"]
        return found[case]

    return run


def after_kills(case, tmp_path, model_folder, *saboteurs):
    """The files of a run that each saboteur killed in turn, and that was resumed each time."""
    return files(killed_then_resumed(arguments(model_folder, tmp_path, case), tmp_path, saboteurs))


def test_a_run_in_rounds_killed_in_its_second_round(tmp_path, model_folder, whole):
    killed = after_kills("sft", tmp_path, model_folder, (die_in_backward, 4))
    assert killed == whole("sft")


@pytest.mark.sweep
@pytest.mark.parametrize("case", ["sft", "dpo"])
def test_killed_again_and_again(case, tmp_path, model_folder, whole):
    assert after_kills(case, tmp_path, model_folder, *AGAIN_AND_AGAIN) == whole(case)


@pytest.mark.sweep
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point, tmp_path, model_folder, whole):
    assert after_kills("sft", tmp_path, model_folder, POINTS[point]) == whole("sft")


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("case", "saboteur"),
    [
        ("dpo", (die_in_backward, 3)),
        ("restart", (die_in_backward, 6)),
        ("lora", (die_halfway, "peft.peft_model:safe_save_file", 3)),
        ("lora", (die_in_backward, 4)),  # its checkpoint has the adapter that is the reference as well
        ("hybrid", (die_in_backward, 4)),
        ("hybrid", (die_at, "rlif.runs.phase:seal", 2)),
        ("hybrid", (die_at, "rlif.runs.phase:seal", 3, "after")),
    ],
)
def test_other_kinds_of_runs_in_rounds(case, saboteur, tmp_path, model_folder, whole):
    assert after_kills(case, tmp_path, model_folder, saboteur) == whole(case)
