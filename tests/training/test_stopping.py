"""Tests Ctrl-C, SIGTERM and the scheduler's SIGUSR1: a checkpoint, how to resume, and the exit code."""

from __future__ import annotations

import io
import signal

import pytest
from rich.console import Console
from support.killing import finish, outcome, rlif_process, start_two, train_arguments
from support.sabotage import nobody_reads, signal_at, signal_ranks

from rlif.engines.trl import stopping
from rlif.errors import Preempted
from rlif.runs.folder import Run

ROLLOUT = "rlif.engines.trl.trainer:GRPOTrainer._generate_and_score_completions"  # once a step
RARELY = ["training.save_steps=100", "training.max_steps=4"]


@pytest.mark.daily(every=3)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_the_first_signal_ends_the_run_at_a_checkpoint(number, code, tmp_path, model_folder):
    """The signal arrives while step 2 generates; step 2 is finished and saved."""
    arguments = train_arguments(model_folder, tmp_path, *RARELY)
    found, said = rlif_process(arguments, tmp_path / "log", (signal_at, ROLLOUT, 2, number))
    run = Run.open(tmp_path / "run")
    assert found == code and f"stopped at step 2; go on with: rlif train --resume {run.path}" in said
    assert "Traceback" not in said and "stopping at a checkpoint after this step" in said
    assert run.good_checkpoint()[0].name == "checkpoint-2" and not run.model.exists()
    assert [row["step"] for row in run.metrics()] == [1, 2]


@pytest.mark.sweep
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_run(tmp_path, model_folder):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert rlif_process(train_arguments(model_folder, whole, *RARELY), tmp_path / "log")[0] == 0
    term = (signal_at, ROLLOUT, 2, signal.SIGTERM)
    assert rlif_process(train_arguments(model_folder, stopped, *RARELY), tmp_path / "log", term)[0] == 75
    assert rlif_process(["train", "--resume", stopped / "run"], tmp_path / "log")[0] == 0
    expected, found = outcome(whole / "run"), outcome(stopped / "run")
    assert found.pop("checkpoints") != expected.pop("checkpoints") and found == expected


@pytest.mark.daily(every=2)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_ends_the_run_at_once(number, code, tmp_path, model_folder):
    arguments = train_arguments(model_folder, tmp_path)
    found, said = rlif_process(arguments, tmp_path / "log", (signal_at, ROLLOUT, 2, number, number))
    assert found == code and "Traceback" not in said
    assert Run.open(tmp_path / "run").good_checkpoint()[0].name == "checkpoint-1"


@pytest.mark.daily(every=2)
@pytest.mark.parametrize(
    ("where", "checkpoint"),
    [("rlif.training.session:_evaluation", None), ("rlif.training.lifecycle:_save_model", "checkpoint-2")],
)
def test_a_signal_outside_the_steps_ends_the_run_at_once(where, checkpoint, tmp_path, model_folder):
    """Finished steps are saved, and the exit code still says that the run can be resumed."""
    arguments = train_arguments(model_folder, tmp_path, "training.max_steps=2")
    found, said = rlif_process(arguments, tmp_path / "log", (signal_at, where, 1, signal.SIGTERM))
    latest = Run.open(tmp_path / "run").good_checkpoint()[0]
    assert found == 75 and "Traceback" not in said
    assert (latest and latest.name) == checkpoint


@pytest.mark.sweep
def test_a_signal_stops_the_run_only_after_all_updates_that_share_a_rollout(tmp_path, model_folder):
    arguments = train_arguments(model_folder, tmp_path, "training.num_iterations=2", "training.save_steps=2")
    found, said = rlif_process(arguments, tmp_path / "log", (signal_at, "torch.optim:AdamW.step", 1, signal.SIGTERM))
    assert found == 75 and "stopped at step 2;" in said


def test_a_launchers_copy_of_the_signal_does_not_count_as_a_second_signal(monkeypatch):
    stop = stopping.Stop(Console(quiet=True), every=1)
    stop.stepping, stop.before = True, {}
    monkeypatch.setitem(stopping.PartialState().__dict__, "num_processes", 2)
    raised = []
    monkeypatch.setattr(stopping.signal, "raise_signal", raised.append)
    stop._come(signal.SIGTERM, None)
    stop._come(signal.SIGTERM, None)
    assert not raised
    stop.since -= stopping.ECHO_SECONDS
    stop._come(signal.SIGTERM, None)
    assert raised == [signal.SIGTERM]
    assert isinstance(stop.ending(), Preempted) and stop.ending().code == 75


def two_to_their_end(arguments, log, *saboteurs):
    """Runs two processes to their end; returns their exit codes and output."""
    codes = [finish(process) for process in start_two(arguments, log, *saboteurs)]
    return codes, "".join(log.with_suffix(f".{rank}").read_text() for rank in (0, 1))


@pytest.fixture(scope="module")
def two_whole(tmp_path_factory, model_folder):
    """The outcome of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("two")
    codes, said = two_to_their_end(train_arguments(model_folder, folder, *RARELY), folder / "log")
    assert codes == [0, 0], said
    return outcome(folder / "run")


TERM = int(signal.SIGTERM)
MOMENTS = {
    "one before the step's end, its copy to the other after it": {
        "0": (ROLLOUT, 2, TERM),
        "1": ("rlif.engines.trl.checkpointing:SealCheckpoints.on_save", 1, TERM),
    },
    "to one, while it tells the other that there was none": {"1": ("rlif.engines.trl.stopping:gather_object", 1, TERM)},
}


@pytest.mark.sweep
@pytest.mark.parametrize("moments", MOMENTS)
def test_two_processes_stop_at_the_same_checkpoint(moments, tmp_path, model_folder, two_whole):
    arguments = train_arguments(model_folder, tmp_path, *RARELY)
    codes, said = two_to_their_end(arguments, tmp_path / "log", (signal_ranks, MOMENTS[moments]))
    assert codes == [75, 75] and "Traceback" not in said, said
    assert [path.name for path in Run.open(tmp_path / "run").checkpoints.glob("checkpoint-*")] == ["checkpoint-2"]
    codes, said = two_to_their_end(["train", "--resume", tmp_path / "run"], tmp_path / "again")
    assert codes == [0, 0], said
    found, expected = outcome(tmp_path / "run"), dict(two_whole)
    assert found.pop("checkpoints") != expected.pop("checkpoints") and found == expected


def test_a_signal_while_a_line_is_printed_is_handled(capfd):
    """Python's streams refuse nested writes, so the handler does not print to them."""

    class Interrupted(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if stop.signal is None:
                signal.raise_signal(signal.SIGTERM)
            return len(data)

    console = Console(file=io.TextIOWrapper(io.BufferedWriter(Interrupted()), write_through=True))
    with stopping.Stop(console, every=1) as stop:
        stop.stepping = True
        console.print("step 1/4")
    assert stop.signal == signal.SIGTERM and "stopping at a checkpoint after this step" in capfd.readouterr().err


@pytest.mark.sweep
def test_a_run_continues_when_its_output_is_closed(tmp_path, model_folder):
    arguments = train_arguments(model_folder, tmp_path, "training.max_steps=1")
    code, said = rlif_process(arguments, tmp_path / "log", (nobody_reads,))
    assert code == 0 and "Traceback" not in said, said
    assert Run.open(tmp_path / "run").summary()["steps"] == 1
