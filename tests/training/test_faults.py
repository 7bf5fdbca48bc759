"""Tests faults one by one: the message, the exit code, what remains in the run folder, and the resume."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess

import pytest
from support import sabotage
from support.killing import LIMIT, free_port, outcome, rlif_process, start_two, train_arguments
from support.models import byte_tokenizer, tiny_model
from support.sabotage import (
    die_at,
    fail_at,
    fail_in_a_line,
    fill_disk_at,
    nan_loss_at,
    raising_reward,
    reward_is,
    say_time_limit,
    take_all_memory_at,
)

from rlif.files.lock import locked
from rlif.runs.folder import Run

GENERATE, SAVE = "transformers:GenerationMixin.generate", "transformers.modeling_utils:safe_save_file"
CHECK = 2  # calls of GENERATE before a run's first: the settings are tried, and the signal is checked
BACKWARD = "accelerate:Accelerator.backward"
FULL = "the disk is full; make room and go on with: rlif train --resume"
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB"

# Faults in the third of four steps, and their messages.
FAULTS = {
    "disk full in a line of the log": ((fail_in_a_line, 3, errno.ENOSPC), FULL),
    "quota exceeded in a line of the log": ((fail_in_a_line, 3, errno.EDQUOT), "cannot write to"),
    "folder becomes read-only": (
        (
            fail_at,
            "rlif.runs.folder:Run.write_completions",
            3,
            "builtins.OSError",
            errno.EROFS,
            os.strerror(errno.EROFS),
        ),
        "Read-only file system; put that right and go on with",
    ),
    "out of memory in generation": (
        (fail_at, GENERATE, CHECK + 3, "torch.OutOfMemoryError", CUDA),
        "out of memory while generating; lower training.max_completion_length, or problems_per_update in",
    ),
    "out of memory in training": (
        (take_all_memory_at, BACKWARD, 5),
        "out of memory while training; lower training.per_device_train_batch_size, or set training.gradient_check",
    ),
    "NaN loss": ((nan_loss_at, 5), "the gradient of step 3 is not finite"),
    "NaN probabilities": (
        (fail_at, GENERATE, CHECK + 3, "builtins.RuntimeError", "probability tensor contains either `inf`, `nan`"),
        "probabilities are not finite",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder):
    """The outcome of a run without faults."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = rlif_process(train_arguments(model_folder, folder), folder / "log")
    assert code == 0, said
    return outcome(folder / "run")


@pytest.fixture
def stopped(tmp_path, model_folder):
    """A run folder killed in its third step, with checkpoints of the first two."""
    rlif_process(train_arguments(model_folder, tmp_path), tmp_path / "killed", (die_at, BACKWARD, 5))
    run = Run.open(tmp_path / "run")
    assert run.good_checkpoint()[0] == run.checkpoints / "checkpoint-2"
    return run


def resume(path, log):
    return rlif_process(["train", "--resume", path], log)


def check_two_steps_are_there(run, whole):
    assert run.good_checkpoint()[0] == run.checkpoints / "checkpoint-2"
    lines = [{k: v for k, v in row.items() if k != "step_seconds"} for row in run.metrics()]
    assert lines[:2] == whole["metrics"][:2] and len(lines) <= 3


@pytest.mark.sweep
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_step_three(name, tmp_path, model_folder, whole):
    saboteur, message = FAULTS[name]
    code, said = rlif_process(train_arguments(model_folder, tmp_path), tmp_path / "log", saboteur)
    assert code == 2 and message in said and "Traceback" not in said, said
    check_two_steps_are_there(Run.open(tmp_path / "run"), whole)
    code, said = resume(tmp_path / "run", tmp_path / "again")
    assert code == 0, said
    assert outcome(tmp_path / "run") == whole


@pytest.fixture
def small_disk(tmp_path):
    """A file system of three MiB; only root can mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system; run it as root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder):
    """Writes a file until the file system is full."""
    with open(folder / "filler2", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


PLACES = {
    "completions": "rlif.runs.folder:Run.write_completions",
    "weights": SAVE,
    "manifest": "rlif.engines.trl.checkpointing:seal",
}


@pytest.mark.sweep
@pytest.mark.parametrize(
    "place", [pytest.param(name, marks=() if name == "weights" else pytest.mark.sweep) for name in PLACES]
)
def test_a_disk_that_is_really_full(place, small_disk, model_folder, whole, tmp_path):
    arguments = train_arguments(model_folder, small_disk)
    code, said = rlif_process(arguments, tmp_path / "log", (fill_disk_at, PLACES[place], 3, str(small_disk)))
    assert code == 2 and FULL in said and "Traceback" not in said, said
    check_two_steps_are_there(Run.open(small_disk / "run"), whole)
    fill(small_disk)
    code, said = resume(small_disk / "run", tmp_path / "still")
    assert code == 2 and "Traceback" not in said and ("the disk is full" in said or "No space left" in said), said
    for filler in small_disk.glob("filler*"):
        filler.unlink()
    code, said = resume(small_disk / "run", tmp_path / "again")
    assert code == 0, said
    assert outcome(small_disk / "run") == whole


@pytest.mark.sweep
def test_a_read_only_folder(small_disk, model_folder, tmp_path):
    shutil.copytree(model_folder, small_disk / "model")
    assert rlif_process(train_arguments(model_folder, small_disk), tmp_path / "l", (die_at, BACKWARD, 3))[0] < 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    before = sorted(small_disk.rglob("*"))
    code, said = rlif_process(train_arguments(model_folder, small_disk, "name=other"), tmp_path / "new")
    assert code == 2 and f"cannot make the run folder {small_disk / 'other'}: Read-only file system." in said
    code, said = resume(small_disk / "run", tmp_path / "again")
    assert code == 2 and f"cannot write to {small_disk / 'run'}: Read-only file system." in said
    assert sorted(small_disk.rglob("*")) == before


@pytest.mark.daily(every=2)
@pytest.mark.parametrize("where", ["rlif.runs.folder:Run.write_fingerprint", "rlif.training.session:Session.close"])
def test_a_fault_before_the_first_step_and_after_the_last(where, tmp_path, model_folder):
    arguments = train_arguments(model_folder, tmp_path, "training.max_steps=1")
    fault = (fail_at, where, 1, "builtins.OSError", errno.ENOSPC, os.strerror(errno.ENOSPC))
    code, said = rlif_process(arguments, tmp_path / "log", fault)
    assert code == 2 and FULL in said and "Traceback" not in said, said


def test_the_recipe_sets_the_time_limit_of_the_process_group(tmp_path, model_folder):
    """The first caller creates the process group with its time limit; here this is not the engine."""
    arguments = train_arguments(model_folder, tmp_path, "training.max_steps=1", "training.ddp_timeout=77")
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    fault = (fail_at, "rlif.runs.folder:Run.create", 1, "rlif.errors.RlifError", "enough")
    code, said = rlif_process(arguments, tmp_path / "log", (say_time_limit,), fault, **alone, **address)
    assert code == 2 and "time limit 0:01:17" in said and "enough" in said, said
    code, said = rlif_process([*arguments, "training.ddp_timeout=never"], tmp_path / "other")
    assert code == 2 and "training.ddp_timeout is 'never'; it must be a whole number of seconds" in said


def test_out_of_memory_while_evaluating(tmp_path, model_folder):
    arguments = train_arguments(model_folder, tmp_path, "evaluate={tasks: [cups], limit: 2}")
    code, said = rlif_process(
        arguments, tmp_path / "log", (fail_at, GENERATE, CHECK + 1, "torch.OutOfMemoryError", CUDA)
    )
    assert code == 2 and "out of memory while evaluating; lower evaluate.batch_size in" in said


@pytest.mark.sweep
def test_the_problems_changed(tmp_path, model_folder):
    source = tmp_path / "prompts.txt"
    source.write_text("".join(f"Tell me about {i}.\n" for i in range(12)))
    arguments = train_arguments(model_folder, tmp_path, "task=prompts", f"source={source}", "chat=false", "limit=12")
    assert rlif_process(arguments, tmp_path / "log", (die_at, BACKWARD, 3))[0] < 0
    kept, checkpoints = source.read_text(), sorted((tmp_path / "run").rglob("*"))
    changes = {"other rows": kept.replace("7", "8"), "12 rows then, 11 now": kept[: kept.index("Tell me about 11")]}
    for change, text in changes.items():
        source.write_text(text)
        code, said = resume(tmp_path / "run", tmp_path / change)
        assert code == 2 and f"changed since the run began ({change}); put back what" in said, said
        assert sorted((tmp_path / "run").rglob("*")) == checkpoints
    source.write_text(kept)
    assert resume(tmp_path / "run", tmp_path / "again")[0] == 0


@pytest.mark.sweep
def test_the_model_changed(tmp_path):
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    assert rlif_process(train_arguments(folder, tmp_path), tmp_path / "log", (die_at, BACKWARD, 3))[0] < 0
    tiny_model(seed=1).save_pretrained(folder)
    code, said = resume(tmp_path / "run", tmp_path / "again")
    assert code == 2 and "changed since the run began (model.safetensors); put back what" in said


def test_a_changed_byte_in_a_checkpoint(stopped, tmp_path, whole):
    """The message names the checkpoint, and the run resumes from the one before."""
    flip(stopped.checkpoints / "checkpoint-2" / "optimizer.pt")
    code, said = resume(stopped.path, tmp_path / "log")
    assert code == 0, said
    assert "checkpoint-2 is damaged: optimizer.pt has other content than was written" in said
    assert "going on from checkpoint-1" in said and outcome(stopped.path) == whole


@pytest.mark.sweep
def test_no_checkpoint_is_whole(stopped, tmp_path):
    """The resume is refused; starting again would delete the checkpoints without asking."""
    for step in (1, 2):
        (stopped.checkpoints / f"checkpoint-{step}" / "model.safetensors").unlink()
    before = sorted(stopped.path.rglob("*"))
    code, said = resume(stopped.path, tmp_path / "log")
    assert code == 2 and "checkpoint-2 is damaged: model.safetensors is missing; checkpoint-1 is" in said
    assert "Traceback" not in said and sorted(stopped.path.rglob("*")) == before


@pytest.mark.sweep
def test_another_process_uses_the_folder(stopped, tmp_path):
    with locked(stopped.path):
        code, said = resume(stopped.path, tmp_path / "log")
    assert code == 2 and f"is in use by another process (process {os.getpid()} on " in said
    assert (stopped.checkpoints / "checkpoint-2").is_dir()
    with locked(stopped.path) as promised:  # the lock is free again
        assert promised


@pytest.mark.sweep
def test_one_of_two_processes_is_killed(tmp_path, model_folder):
    """There is no launcher, so the other process itself must notice and report it."""
    arguments = train_arguments(model_folder, tmp_path)
    first, second = start_two(arguments, tmp_path / "log")
    while not (tmp_path / "run" / "metrics.jsonl").exists() and first.is_alive():
        first.join(0.01)
    second.kill()
    first.join(LIMIT)
    said = (tmp_path / "log.0").read_text()
    assert first.exitcode == 2 and "Traceback" not in said, said
    assert "another process of this run died or cannot be reached" in said and "--resume" in said


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("hanging", 3, "the reward self_certainty took more than 3 s for one batch"),
        ("raising", 600, "the reward self_certainty failed (ConnectionError: the judge did not answer)"),
    ],
)
def test_a_reward_that_fails_once(name, seconds, message, tmp_path, model_folder):
    arguments = train_arguments(model_folder, tmp_path, f"reward_seconds={seconds}", "training.max_steps=2")
    code, said = rlif_process(arguments, tmp_path / "log", (reward_is, name))
    assert code == 2 and message in said and "Traceback" not in said, said
    assert Run.open(tmp_path / "run").good_checkpoint()[0].name == "checkpoint-1"
    assert resume(tmp_path / "run", tmp_path / "again")[0] == 0


@pytest.mark.sweep
def test_a_reward_of_ones_own_that_raises_at_the_first_rollout(tmp_path, model_folder):
    """Its traceback is in the run folder, on screen with --debug, and the next start takes the folder's place."""
    arguments = train_arguments(model_folder, tmp_path, "training.max_steps=1", "evaluate={tasks: [cups], limit: 1}")
    failing = "reward=support.sabotage:raising_reward"
    line = raising_reward.__code__.co_firstlineno + 2
    kept = tmp_path / "run" / "errors" / "reward-step-000001.txt"
    for debug in ([], ["--debug"]):
        code, said = rlif_process([*debug, *arguments, failing], tmp_path / f"log{len(debug)}")
        sentence = f"raised ValueError: out of luck at {sabotage.__file__}, line {line}; its traceback is in {kept};"
        assert code == 2 and sentence in said, said
        for text, there in ((kept.read_text(), True), (said, bool(debug))):
            assert (f'sabotage.py", line {line}, in raising_reward' in text) is there
            assert ("Traceback (most recent call last)" in text) is there
    code, said = rlif_process(arguments, tmp_path / "log")
    assert code == 0 and not kept.exists(), said


@pytest.mark.sweep
def test_a_tokenizer_without_a_pad_token(tmp_path):
    """The end-of-text token is used for padding, and completions still end with it."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings.get("pad_token") is None
    code, said = rlif_process(train_arguments(folder, tmp_path, "training.max_steps=1"), tmp_path / "log")
    assert code == 0, said
    row = json.loads((tmp_path / "run/completions/step-000001.jsonl").read_bytes().splitlines()[0])
    assert 1 not in row["prompt_ids"][:1] and row["completion_ids"]


@pytest.mark.parametrize("harm", ["truncated", "header"])
def test_weights_that_cannot_be_read(harm, tmp_path):
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    weights = folder / "model.safetensors"
    if harm == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    else:
        flip(weights, at=8)
    code, said = rlif_process(train_arguments(folder, tmp_path), tmp_path / "log")
    assert code == 2 and "cannot load the model" in said and "Traceback" not in said, said
    assert not (tmp_path / "run").exists()


def flip(path, at=None):
    """Changes one byte of a file, in the middle unless told where."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 255
    path.write_bytes(data)
