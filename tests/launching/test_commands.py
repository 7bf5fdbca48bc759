"""Tests the commands that `rlif launch` writes, what it refuses, and runs of two real processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from support.commands import main
from support.killing import LIMIT, free_port
from support.launches import ENVIRONMENT, ON_GPUS, RLIF_LAUNCH, SERVER, accelerates, launched, small, wait_for

from rlif.config.loading import load_recipe
from rlif.errors import RlifError
from rlif.launching import commands as launch
from rlif.launching import supervise
from rlif.launching.commands import STRATEGIES, Layout
from rlif.runs.checkpoints import in_order, is_sealed, step_of
from rlif.runs.folder import Run

QWEN, SPLIT = ["model=Qwen/Qwen2.5-1.5B"], ["training.vllm_tensor_parallel_size=8"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accelerate_reads_every_configuration(strategy):
    config = load_config_from_file(str(launch.config_file(strategy)))
    sharded = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP}
    assert config.distributed_type == sharded.get(strategy, DistributedType.DEEPSPEED)
    found = accelerates(launch.train_command(Layout(8, 1, strategy), ["--main_process_port", "0"], ["train", "demo"]))
    assert found.num_processes == 8 and found.num_machines == 1 and found.main_process_port == 0
    assert found.module and [found.training_script, *found.training_script_args] == ["rlif", "train", "demo"]
    assert (found.use_fsdp, found.use_deepspeed, found.multi_gpu) == (
        strategy == "fsdp2",
        strategy.startswith("zero"),
        strategy == "ddp",
    )
    if strategy == "fsdp2":
        assert found.fsdp_version == 2 and found.fsdp_reshard_after_forward
    if strategy.startswith("zero"):
        assert found.zero_stage == int(strategy[-1])


def test_every_configuration_leaves_precision_to_the_recipe():
    assert sorted(path.stem for path in launch.config_file("ddp").parent.glob("*.yaml")) == sorted(STRATEGIES)
    assert {load_config_from_file(str(launch.config_file(name))).mixed_precision for name in STRATEGIES} == {"no"}


def test_commands_of_several_machines_name_the_first_machine():
    layout = Layout(16, 2, "fsdp2")
    for rank in (0, 1):
        found = accelerates(launch.train_command(layout, launch.machine_options(layout, rank, "first:1234"), ["train"]))
        assert (found.machine_rank, found.main_process_ip, found.main_process_port) == (rank, "first", 1234)
        assert (found.num_processes, found.num_machines) == (16, 2)
    for rank, head in ((0, None), (0, "first:port"), (2, "first"), (-1, "first")):
        with pytest.raises(RlifError, match="--rank"):
            launch.machine_options(layout, rank, head)


@pytest.mark.sweep
def test_the_commands_of_training_with_a_server(monkeypatch, capsys):
    """The first GPUs train, the next ones serve; model and length of the server come from the recipe."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    arguments = ["launch", "--dry-run", "--processes", "2", "--server-gpus", "2", "demo", *ON_GPUS, *SERVER]
    code, _, err = main(monkeypatch, capsys, *arguments)
    assert code == 0 or "vLLM is not installed" in err
    monkeypatch.setattr("rlif.sampling.vllm_sampler.require_vllm", lambda: None)
    code, out, err = main(monkeypatch, capsys, *arguments)
    assert code == 0, err
    serve, train = (shlex.split(line) for line in out.splitlines())
    assert serve[0] == "CUDA_VISIBLE_DEVICES=6,7" and train[0] == "CUDA_VISIBLE_DEVICES=4,5" and serve[-1] == "&"
    options = dict(zip(serve[5:-1:2], serve[6:-1:2], strict=True))
    assert options["--model"].endswith("models/tiny-equal") and options["--tensor_parallel_size"] == "2"
    assert options["--max_model_len"] == str(64 + 56)
    assert accelerates(train[1:]).num_processes == 2


def test_a_recipe_name_with_a_dot_is_kept_as_the_runs_name(monkeypatch, capsys):
    """The command is printed although its model may not be on this machine, which the exit code says."""
    _, out, _ = main(monkeypatch, capsys, "launch", "--dry-run", "--processes", "1", "intuitor-qwen2.5-3b-math")
    assert "name=intuitor-qwen2.5-3b-math" in shlex.split(out)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (SERVER, True),
        (["training.use_vllm=true"], False),
        ([*SERVER, "training.vllm_server_host=there"], False),
        ([*SERVER, "training.vllm_server_base_url=http://there:8000"], False),
        (["training.vllm_mode=server"], False),
    ],
)
def test_a_server_is_started_only_if_the_recipe_names_no_other(overrides, wanted):
    assert launch.wants_server(load_recipe("demo", overrides)) is wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a recipe"),
        (["demo"], "how many processes? give --processes"),
        (["demo", "--processes", "3"], "do not divide into batches of 192"),
        (["demo-long", "--processes", "4", "--nodes", "3"], "cannot be shared equally by 3 machines"),
        (["demo", "--processes", "2", "--strategy", "fsdp"], "did you mean 'fsdp2'"),
        (["demo", "--processes", "2", "--strategy", "zero2"], "a recipe with training.use_cpu runs with ddp"),
        (["demo", *ON_GPUS, "evaluate={tasks: [clock]}", "--processes", "2", "--strategy", "zero3"], "keeps shards"),
        (["demo-long", *ON_GPUS, "--processes", "32"], "32 processes on this machine need a GPU each, found"),
        (["demo-long", *ON_GPUS, *SERVER, "--processes", "32"], "and 1 for the vLLM server, found"),
        (["demo", *ON_GPUS, "--processes", "2", "--nodes", "2", "--dry-run"], "found --head nothing"),
        (["demo", *ON_GPUS, *SERVER, "--processes", "2", "--nodes", "2", "--dry-run"], "are started by --slurm"),
        (["demo", "--resume", "runs/demo"], "give none beside it"),
        (["--resume", "/nowhere"], "is not a run folder"),
        (["dmo", "--processes", "2"], "did you mean 'demo'"),
        (["demo", "--processes", "2", "name=taken", "--dry-run"], "taken exists already"),
        (["demo", *ON_GPUS, "vllm_capture=true", "--processes", "2", "--strategy", "fsdp2"], "leave vllm_capture out"),
        (["demo", *ON_GPUS, *SERVER, *QWEN, "--processes", "2", "--server-gpus", "8", "--dry-run"], "use 1 or 2 or 3"),
        (["demo", *ON_GPUS, *QWEN, "training.use_vllm=true", *SPLIT, "--processes", "8", "--dry-run"], "12 attention"),
    ],
)
def test_bad_arguments_are_refused_before_anything_starts(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/taken").mkdir(parents=True)
    code, _, err = main(monkeypatch, capsys, "launch", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(RlifError, match="strategy zero3 needs deepspeed: pip install deepspeed"):
        launch.check_layout(load_recipe("demo", ON_GPUS), Layout(2, 1, "zero3"), gpus=2)


def gone(*processes: psutil.Process | int) -> bool:
    """Waits until all processes have ended; says whether they did. Zombies count as ended."""
    deadline, left = time.monotonic() + LIMIT, list(processes)
    while left and time.monotonic() < deadline:
        left = [each for each in left if not _ended(each)]
        time.sleep(0.02 if left else 0)
    return not left


def _ended(process: psutil.Process | int) -> bool:
    with suppress(psutil.NoSuchProcess):
        known = psutil.Process(process) if isinstance(process, int) else process
        return not known.is_running() or known.status() == psutil.STATUS_ZOMBIE
    return True


def test_a_server_ends_with_the_training(tmp_path, monkeypatch):
    """Also if training fails. Even processes started by a server that ignores SIGTERM are ended."""
    wait = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    until = "import os, sys\nwhile not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read()): pass\nsys.exit(5)"
    note = str(tmp_path / "pid")
    train, serve = [sys.executable, "-c", until, note], ["bash", "-c", 'trap "" TERM; "$@" & wait', "bash"]
    monkeypatch.setattr(supervise, "PATIENCE", 0.5)
    ending = supervise.run(train, tmp_path, again="", server=[*serve, sys.executable, "-c", wait, note])
    assert ending == supervise.Ending(5)
    assert gone(int(Path(note).read_text()))


def test_the_launchers_output_becomes_one_sentence(tmp_path, capsys):
    """A sentence of all processes is printed once, without the launcher's table and traceback."""
    agent = (
        "E1121 17:00:00 9 torch/distributed/elastic/multiprocessing/api.py:1000] failed (exitcode: {}) local_rank: 1 "
    )
    lines = ["rlif: too few\n", "rlif: too few\n", "Traceback of a process\n", agent.format(2) + "\n", "Traceback\n"]
    assert supervise._pass_on(lines) == (2, 1)
    assert capsys.readouterr().err == "rlif: too few\nTraceback of a process\n"
    table = ["  rank      : {0} (local_rank: {0})\n", "  exitcode  : {1} (pid: 7) \n"]
    for codes, expected in (((2, -9), (-9, 1)), ((2, -15), (2, 1)), ((2, 2), (2, 1))):
        rows = [line.format(rank, code) for rank, code in enumerate(codes) for line in table]
        assert supervise._pass_on([agent.format(2), "Traceback\n", *rows]) == expected
    assert supervise._ending(2, 1, "; go on") == supervise.Ending(2)
    killed = supervise._ending(-9, 11, "; go on")
    assert killed == supervise.Ending(137, "process 11 was killed (SIGKILL), so the others were ended; go on")
    stopped = [
        "Traceback (most recent call last):\n",
        "  at\n",
        "a.b.SignalException: Process 7 got signal: 15\n",
        "x\n",
    ]
    assert supervise._pass_on(stopped) is None and capsys.readouterr().err == "x\n"


def test_the_command_to_resume_repeats_the_layout_of_the_launch(tmp_path):
    """The number of the failed process counts the processes of all machines."""
    layout, agent = Layout(16, 2, "zero3", 4), "failed (exitcode: -9) local_rank: 1 "
    command = launch.again(tmp_path, layout, ["--head", "first", "--rank", "1"])
    words = ["--processes", "16", "--nodes", "2", "--strategy", "zero3", "--server-gpus", "4", "--head", "first"]
    assert shlex.split(command) == ["rlif", "launch", "--resume", str(tmp_path), *words, "--rank", "1"]
    assert launch.again(Path("a b"), Layout(2)) == "rlif launch --resume 'a b' --processes 2"
    train = [sys.executable, "-c", f"import sys; sys.exit('{agent}')"]
    ending = supervise.run(train, tmp_path, again=command, first=8)
    expected = f"process 9 was killed (SIGKILL), so the others were ended; go on with: {command}"
    assert ending == supervise.Ending(137, expected)
    assert "go on" not in supervise.run(train, tmp_path / "nowhere", again=command).sentence


def test_the_processes_of_a_launched_run_name_the_command_that_resumes_it(tmp_path, capsys):
    again = launch.again(tmp_path, Layout(2))
    show = "import sys; from pathlib import Path; from rlif.runs.folder import Run; sys.exit(Run(Path('r s')).go_on)"
    supervise.run([sys.executable, "-c", show], tmp_path, again=again)
    assert capsys.readouterr().err == f"go on with: {again}\n"
    assert Run(Path("r s")).go_on == "go on with: rlif train --resume 'r s'"


def below(started: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(started.pid).children(recursive=True)


def rows(run: Path) -> int:
    return len((run / "metrics.jsonl").read_text().splitlines())


@pytest.mark.sweep
def test_a_run_of_which_one_process_is_killed_can_be_resumed(tmp_path, model_folder):
    """Two real processes on the CPU: the other one ends, the command says so, and a resume finishes the run."""
    run = tmp_path / "run"
    started = launched(["--processes", "2", "demo", *small(model_folder, tmp_path)], run, 2)
    children = below(started)
    (second,) = [child for child in children if child.environ().get("LOCAL_RANK") == "1"]
    second.kill()
    _, said = started.communicate(timeout=LIMIT)
    assert started.returncode == 137, said
    go_on = f"go on with: rlif launch --resume {run} --processes 2"
    assert said.splitlines()[-1] == f"rlif: process 1 was killed (SIGKILL), so the others were ended; {go_on}"
    assert gone(*children)
    again = shlex.split(go_on)[5:]
    done = subprocess.run([*RLIF_LAUNCH, *again], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows(run) == 20 and (run / "summary.json").exists()


@pytest.mark.sweep
def test_a_launched_run_stops_at_a_checkpoint_on_a_signal(tmp_path, model_folder):
    """Twice, with a resume between: no step is lost, no process is left. test_slurm.py resumes to the end."""
    run, arguments = tmp_path / "run", ["--processes", "2", "demo", *small(model_folder, tmp_path)]
    for number, checkpoint in ((signal.SIGUSR1, 2), (signal.SIGTERM, 5)):
        started = launched(arguments, run, checkpoint)
        children = below(started)
        started.send_signal(number)
        _, said = started.communicate(timeout=LIMIT)
        assert started.returncode == 75, said
        go_on = f"rlif launch --resume {run} --processes 2"
        assert said.splitlines()[-1] == f"rlif: stopped by {number.name}; go on with: {go_on}"
        assert "Traceback" not in said and gone(*children)
        steps = [step_of(path) for path in in_order(run / "checkpoints") if is_sealed(path)]
        assert checkpoint <= rows(run) == steps[-1] < 20
        arguments = shlex.split(go_on)[2:]


STUBBORN = "import os, signal, sys, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 10, 15)]; "


@pytest.mark.parametrize("ends_by", ["a second signal", "the limit"])
def test_processes_that_ignore_a_signal_are_killed(ends_by, tmp_path, monkeypatch):
    """With all their children. The launcher's own limit is raised, as a step may take more than thirty seconds."""
    body = f"open(sys.argv[1], 'w').write(os.environ['{supervise.AGENTS}'] + ' ' + str(os.getpid())); time.sleep(600)"
    train = [
        sys.executable,
        "-c",
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN + body!r}, sys.argv[1]])",
    ]
    note, me = tmp_path / "note", os.getpid()
    monkeypatch.setattr(supervise, "ECHO_SECONDS", 0.0)
    if ends_by == "the limit":
        monkeypatch.setattr(supervise, "STOPPING", 1)
        monkeypatch.setattr(supervise, "PATIENCE", 0)
    signals = 'until [ -s "$1" ]; do sleep 0.05; done; kill -HUP "$2"; [ -z "$3" ] || { sleep 0.2; kill -TERM "$2"; }'
    second = "yes" if ends_by == "a second signal" else ""
    sender = subprocess.Popen(["bash", "-c", signals, "bash", note, str(me), second])
    ending = supervise.run([*train, str(note)], tmp_path, again="it")
    sender.wait()
    assert ending == supervise.Ending(75, "stopped by SIGHUP; go on with: it")
    limit, process = note.read_text().split()
    assert gone(int(process)) and limit == ("1" if ends_by == "the limit" else "600")


@pytest.mark.sweep
def test_two_launchers_end_together_when_a_process_is_killed(tmp_path, model_folder):
    """Two launchers train with one process each; one process is killed, and both launchers end."""
    run, head = tmp_path / "run", f"127.0.0.1:{free_port()}"
    arguments = ["--processes", "2", "--nodes", "2", "--head", head]
    training = ["demo", *small(model_folder, tmp_path), "training.ddp_timeout=120"]
    both = [
        subprocess.Popen(
            [*RLIF_LAUNCH, *arguments, "--rank", rank, *training], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    wait_for(run, 2, *both)
    children = [below(started) for started in both]
    (second,) = [child for child in children[1] if child.environ().get("RANK") == "1"]
    second.kill()
    said = [started.communicate(timeout=LIMIT)[1] for started in both]
    assert json.loads((run / "environment.json").read_text())["processes"] == 2 and rows(run) >= 2
    assert both[1].returncode == 137 and "rlif: process 1 was killed (SIGKILL)" in said[1], said
    assert both[0].returncode not in (0, 137), said
    go_on = f"go on with: rlif launch --resume {run} --processes 2 --nodes 2 --head {head} --rank"
    assert said[1].splitlines()[-1].endswith(f"{go_on} 1"), said
    assert gone(*children[0], *children[1])
