"""The commands that `rlif launch` writes, what it refuses, and two processes really started, one of them killed."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from accelerate.commands import launch as accelerate_launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from test_cli import main

from rlif import launch, supervise
from rlif.config import load_recipe
from rlif.errors import RlifError
from rlif.launch import STRATEGIES, Layout

ON_GPUS = ["training.use_cpu=false", "evaluate={}", "training.per_device_train_batch_size=8"]
SERVER = ["training.use_vllm=true", "training.vllm_mode=server"]


def accelerates(command: list[str]) -> argparse.Namespace:
    """A command of ours as accelerate itself understands it, its configuration file read."""
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    arguments = accelerate_launch.launch_command_parser().parse_args(command[3:])
    return accelerate_launch._validate_launch_command(arguments)[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_accelerate_takes_every_configuration(strategy):
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
    assert sorted(path.stem for path in launch.config_file("ddp").parent.iterdir()) == sorted(STRATEGIES)
    assert {load_config_from_file(str(launch.config_file(name))).mixed_precision for name in STRATEGIES} == {"no"}


def test_machines_find_each_other():
    layout = Layout(16, 2, "fsdp2")
    for rank in (0, 1):
        found = accelerates(launch.train_command(layout, launch.machine_options(layout, rank, "first:1234"), ["train"]))
        assert (found.machine_rank, found.main_process_ip, found.main_process_port) == (rank, "first", 1234)
        assert (found.num_processes, found.num_machines) == (16, 2)
    for rank, head in ((0, None), (0, "first:port"), (2, "first"), (-1, "first")):
        with pytest.raises(RlifError, match="--rank"):
            launch.machine_options(layout, rank, head)


def test_a_server_beside_the_training(monkeypatch, capsys):
    """The first GPUs train, the next ones serve; the server's model and length are the recipe's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    arguments = ["launch", "--dry-run", "--processes", "2", "--server-gpus", "2", "demo", *ON_GPUS, *SERVER]
    code, out, err = main(monkeypatch, capsys, *arguments)
    assert code == 0, err
    serve, train = (shlex.split(line) for line in out.splitlines())
    assert serve[0] == "CUDA_VISIBLE_DEVICES=6,7" and train[0] == "CUDA_VISIBLE_DEVICES=4,5" and serve[-1] == "&"
    options = dict(zip(serve[5:-1:2], serve[6:-1:2], strict=True))
    assert options["--model"].endswith("models/tiny-reasoner") and options["--tensor_parallel_size"] == "2"
    assert options["--max_model_len"] == str(64 + 56)
    assert accelerates(train[1:]).num_processes == 2


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
def test_when_a_server_is_wanted(overrides, wanted):
    assert launch.wants_server(load_recipe("demo", overrides)) is wanted


def pretended(script: str, folder: Path) -> list[list[str]]:
    """Runs a batch script with a Slurm of our own, which notes what each machine would run."""
    (folder / "bin").mkdir()
    for name, body in {
        "scontrol": "printf 'node%s\\n' 1 2 3",
        "srun": 'printf "%s\\0" "$@" >>"$NOTES"; printf "\\n" >>"$NOTES"\n'
        'while [ "${1#--}" != "$1" ]; do shift; done\n[ "$1" = bash ] && SLURM_PROCID=1 "$@"; exit 0',
        "python": 'printf "%s\\0" "$@" >>"$NOTES"; printf "\\n" >>"$NOTES"',
    }.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    script = script.replace(sys.executable, str(folder / "bin/python"))
    shared = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "NOTES": str(folder / "notes")}
    slurm = {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash"], input=script, env={**shared, **slurm}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [line.split("\0")[:-1] for line in (folder / "notes").read_text().splitlines()]


ODD = 'description=it\'s "$HOME" `id` $(id) ; x'


def test_the_batch_script_runs_what_it_should(monkeypatch, capsys, tmp_path):
    """On three pretended machines: two train, the third serves; odd words arrive as they were typed."""
    arguments = ["--slurm", "--dry-run", "--processes", "16", "--nodes", "2", "--server-gpus", "8"]
    command = ["demo", *ON_GPUS, *SERVER, ODD, f"output={tmp_path}/my runs"]
    code, script, err = main(monkeypatch, capsys, "launch", *arguments, *command)
    assert code == 0, err
    directives = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert {"--nodes=3", "--ntasks-per-node=1", "--gpus-per-node=8", "--requeue"} <= set(directives)
    noted = pretended(script, tmp_path)
    serve = next(words for words in noted if "vllm-serve" in words)
    assert "--nodelist=node3" in serve and serve[serve.index("--tensor_parallel_size") + 1] == "8"
    (step,) = (words for words in noted if "bash" in words)
    assert step[:3] == ["--nodes=2", "--ntasks=2", "--nodelist=node1,node2"]
    (started,) = (words for words in noted if "accelerate.commands.launch" in words)
    found = accelerates(["python", *started])
    assert (found.machine_rank, found.main_process_ip, found.main_process_port) == (1, "node1", 20007)
    assert found.training_script_args == ["train", *command, "name=demo"]


def test_a_requeued_job_goes_on(monkeypatch, capsys, tmp_path):
    arguments = ["--slurm", "--dry-run", "--processes", "2", "demo", *ON_GPUS, f"output={tmp_path}/runs"]
    script = main(monkeypatch, capsys, "launch", *arguments)[1]
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "runs/demo/recipe.yaml").touch()
    (started,) = (words for words in pretended(script, tmp_path) if "accelerate.commands.launch" in words)
    assert accelerates(["python", *started]).training_script_args == ["train", "--resume", f"{tmp_path}/runs/demo"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a recipe"),
        (["demo"], "how many processes? give --processes"),
        (["demo", "--processes", "3"], "do not divide into batches of 192"),
        (["demo", "--processes", "4", "--nodes", "3"], "cannot be shared equally by 3 machines"),
        (["demo", "--processes", "2", "--strategy", "fsdp"], "did you mean 'fsdp2'"),
        (["demo", "--processes", "2", "--strategy", "zero2"], "a recipe with training.use_cpu runs with ddp"),
        (["demo", *ON_GPUS, "evaluate={tasks: [clock]}", "--processes", "2", "--strategy", "zero3"], "keeps shards"),
        (["demo", *ON_GPUS, "--processes", "32"], "32 processes on this machine need a GPU each, found"),
        (["demo", *ON_GPUS, *SERVER, "--processes", "32"], "and 1 for the vLLM server, found"),
        (["demo", *ON_GPUS, "--processes", "2", "--nodes", "2", "--dry-run"], "found --head nothing"),
        (["demo", *ON_GPUS, *SERVER, "--processes", "2", "--nodes", "2", "--dry-run"], "are started by --slurm"),
        (["demo", "--resume", "runs/demo"], "give none beside it"),
        (["--resume", "/nowhere"], "is no run folder"),
        (["dmo", "--processes", "2"], "did you mean 'demo'"),
        (["demo", "--processes", "2", "name=taken", "--dry-run"], "taken exists already"),
    ],
)
def test_refused_before_anything_starts(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/taken").mkdir(parents=True)
    code, _, err = main(monkeypatch, capsys, "launch", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(RlifError, match="strategy zero3 needs deepspeed: pip install deepspeed"):
        launch.check_layout(load_recipe("demo", ON_GPUS), Layout(2, 1, "zero3"), gpus=2)


def test_a_server_ends_with_the_training(tmp_path):
    """Also where training fails; nothing is left behind."""
    wait = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    until = "import os, sys\nwhile not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read()): pass\nsys.exit(5)"
    note = str(tmp_path / "pid")
    ending = supervise.run([sys.executable, "-c", until, note], tmp_path, server=[sys.executable, "-c", wait, note])
    assert ending == supervise.Ending(5)
    assert not psutil.pid_exists(int(Path(note).read_text()))


def test_what_the_launcher_says_becomes_a_sentence(tmp_path, capsys):
    """One sentence of all processes is said once; the table and the traceback of the launcher are left out."""
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
    assert supervise._ending(2, 1, tmp_path) == supervise.Ending(2)
    killed = supervise._ending(-9, 1, tmp_path)
    assert killed.code == 137 and killed.sentence.startswith("process 1 was killed (SIGKILL)")
    assert f"rlif launch --resume {tmp_path}" in killed.sentence
    assert "--resume" not in supervise._ending(1, 0, tmp_path / "nowhere").sentence


def test_one_of_two_launched_processes_is_killed_and_the_run_goes_on(tmp_path, model_folder):
    """Really started, on the CPU: the other ends within the minute, the command says so, and a second one finishes."""
    small = [
        f"model={model_folder}",
        f"output={tmp_path}",
        *("name=run", "limit=16", "problems_per_update=2", "evaluate={}", "guard.prompt_check=0"),
        *("training.max_steps=20", "training.save_steps=1", "training.num_generations=2"),
        *("training.per_device_train_batch_size=2", "training.max_completion_length=8", "max_prompt_tokens=1024"),
    ]
    rlif = [sys.executable, "-m", "rlif", "launch", "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen([*rlif, "demo", *small], env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/checkpoints/checkpoint-2").exists() and started.poll() is None:
        time.sleep(0.05)
    children = psutil.Process(started.pid).children(recursive=True)
    (second,) = [child for child in children if child.environ().get("LOCAL_RANK") == "1"]
    second.kill()
    _, said = started.communicate(timeout=60)
    assert started.returncode == 137, said
    assert said.splitlines()[-1].startswith(
        "rlif: process 1 was killed (SIGKILL), so the others were ended; go on with"
    )
    assert not any(child.is_running() for child in children)
    done = subprocess.run([*rlif, "--resume", tmp_path / "run"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [line for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines() if line]
    assert len(steps) == 20 and (tmp_path / "run/summary.json").exists()
