"""Tests the batch script of `rlif launch --slurm`: bash really runs it, with a pretended Slurm."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import main
from support.killing import LIMIT
from support.launches import ENVIRONMENT, ON_GPUS, SERVER, accelerates, small, wait_for

from rlif.runs.launcher_contract import SERVER_HOST

# Like Slurm's, this srun starts its command once per task, forwards USR1 to the tasks and kills them on TERM.
SRUN = r"""
exec 9>>"$NOTES"; flock 9  # two may note at once, and printf writes line by line
printf "%s\0" "$@" $'\n' >&9; exec 9>&-
tasks=1
while [ "${1#--}" != "$1" ]; do case "$1" in --ntasks=*) tasks="${1#*=}";; esac; shift; done
children=()
for ((task = 0; task < tasks; task++)); do SLURM_PROCID=$task "$@" & children+=($!); done
trap 'kill -USR1 "${children[@]}" 2>/dev/null' USR1
trap 'kill -KILL "${children[@]}" 2>/dev/null' TERM
worst=0
for child in "${children[@]}"; do
  while :; do
    wait "$child" 2>/dev/null; code=$?
    kill -0 "$child" 2>/dev/null || break
  done
  wait "$child" 2>/dev/null; code=$?; [ "$code" = 127 ] && code=0
  [ "$code" -gt "$worst" ] && worst=$code
done
exit "$worst"
"""
SCONTROL = r"""
if [ "$1" = requeue ]; then echo "$2" >>"$NOTES.requeued"; else printf 'node%s\n' 1 2 3; fi
"""
# With a server, a launched command waits until the server is noted, at most four minutes.
PYTHON = r"""
for _ in {1..4800}; do
  if [ -z "$RLIF_VLLM_SERVER" ] || [ "$3" != launch ] || grep -q vllm-serve "$NOTES"; then break; fi
  sleep 0.05
done
exec 9>>"$NOTES.launched"; flock 9
printf "%s\0" "$SLURM_PROCID" "$@" $'\n' >&9; exec 9>&-
exit "${LAUNCH_CODE:-0}"
"""


class Slurm:
    """Runs batch scripts in a folder and notes there what they asked for."""

    def __init__(self, folder: Path):
        self.folder, self.notes = folder, folder / "notes"
        (folder / "bin").mkdir()
        for name, body in {"scontrol": SCONTROL, "srun": SRUN, "python": PYTHON}.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/bash\n{body}\n")
            path.chmod(0o755)

    def start(self, script: str, job: int = 7, *, really: bool = False, **changes: str) -> subprocess.Popen[str]:
        """Starts the script of a job. Calls of python are only noted unless `really` is set."""
        if not really:
            script = script.replace(sys.executable, str(self.folder / "bin/python"))
        path = self.folder / "job.sh"
        path.write_text(script)
        shared = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "NOTES": str(self.notes), "HOME": "/nowhere"}
        slurm = {"SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_ID": str(job), "SLURM_CPUS_ON_NODE": "2"}
        environment = {**ENVIRONMENT, **shared, **slurm, **changes}
        return subprocess.Popen(["bash", path], env=environment, stderr=subprocess.PIPE, text=True)

    def run(self, script: str, job: int = 7, **changes: str) -> tuple[int, str]:
        process = self.start(script, job, really=False, **changes)
        return process.wait(), process.communicate()[1]

    def steps(self) -> list[list[str]]:
        return self._noted("")

    def launched(self) -> list[list[str]]:
        return self._noted(".launched")

    def requeued(self) -> list[str]:
        path = Path(f"{self.notes}.requeued")
        return path.read_text().split() if path.exists() else []

    def _noted(self, suffix: str) -> list[list[str]]:
        return [call.split("\0")[:-1] for call in Path(f"{self.notes}{suffix}").read_text().split("\n\0")[:-1]]


@pytest.fixture
def slurm(tmp_path):
    (tmp_path / "slurm").mkdir()
    return Slurm(tmp_path / "slurm")


@pytest.fixture
def script_of(monkeypatch, capsys):
    def script_of(*arguments: str) -> str:
        code, script, err = main(monkeypatch, capsys, "launch", "--slurm", "--dry-run", *arguments)
        assert code == 0, err
        return script

    return script_of


def directives(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


ODD = 'description=it\'s "$HOME" `id` $(id) ; x'


@pytest.mark.sweep
def test_the_batch_script_starts_the_server_and_every_launcher(script_of, slurm, monkeypatch, capsys, tmp_path):
    """On three pretended machines: two train, the third serves. Special characters arrive unchanged."""
    command = ["demo", *ON_GPUS, *SERVER, ODD, f"output={tmp_path}/my runs"]
    layout = ["--processes", "16", "--nodes", "2", "--strategy", "fsdp2", "--server-gpus", "2"]
    script = script_of(*layout, *command)
    asked = {"--nodes=3", "--ntasks-per-node=1", "--gpus-per-node=8", "--requeue", "--exclusive", "--mem=0"}
    assert {*asked, "--signal=B:USR1@300"} <= directives(script)
    code, said = slurm.run(script)
    assert code == 0 and not said
    serve, train = sorted(slurm.steps(), key=lambda words: "vllm-serve" not in words)
    assert "--nodelist=node3" in serve and serve[serve.index("--tensor_parallel_size") + 1] == "2"
    assert train[:4] == ["--kill-on-bad-exit=1", "--nodes=2", "--ntasks=2", "--nodelist=node1,node2"]
    launched = sorted(words for words in slurm.launched() if words[1:4] == ["-m", "rlif", "launch"])
    monkeypatch.setenv(SERVER_HOST, "node3")
    monkeypatch.setattr("rlif.sampling.vllm_sampler.require_vllm", lambda: None)
    for rank, (task, _, _, *words) in enumerate(launched):
        assert task == str(rank) and words[-len(command) - 1 :] == [*command, "name=demo-7"]
        code, out, _ = main(monkeypatch, capsys, *words, "--dry-run")
        found = accelerates(shlex.split(out))
        assert code == 0 and (found.machine_rank, found.main_process_ip, found.main_process_port) == (
            rank,
            "node1",
            20007,
        )
        assert (found.num_processes, found.num_machines, found.use_fsdp) == (16, 2, True)
        assert found.training_script_args == ["train", *command, "name=demo-7"]
    assert len(launched) == 2


@pytest.mark.sweep
def test_a_recipe_without_gpus_asks_slurm_for_none(script_of):
    assert not any("gpus" in each for each in directives(script_of("--processes", "2", "demo")))


def begun(folder: Path, job: str | None) -> None:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").touch()
    (folder / "environment.json").write_text(json.dumps({"rlif": "1", "job": job}, indent=2))


@pytest.mark.sweep
def test_a_requeued_job_resumes_only_its_own_run(script_of, slurm, tmp_path):
    """Two jobs of one recipe with two seeds are two runs; a requeued job resumes its own."""
    scripts = [script_of("--processes", "2", "demo", f"seed={n}", f"output={tmp_path}/runs") for n in (1, 2)]
    slurm.run(scripts[0], 11)
    begun(tmp_path / "runs/demo-11", "11")
    slurm.run(scripts[1], 12)
    slurm.run(scripts[0], 11, SLURM_RESTART_COUNT="1")
    slurm.run(scripts[1], 12, SLURM_RESTART_COUNT="1")  # requeued before it had a run folder
    told = [words[words.index("2") + 1 :] for words in slurm.launched()]
    first, second = (["demo", f"seed={n}", f"output={tmp_path}/runs", f"name=demo-1{n}"] for n in (1, 2))
    assert told == [first, second, ["--resume", f"{tmp_path}/runs/demo-11"], second]


@pytest.mark.daily(every=3)
@pytest.mark.parametrize(("job", "goes_on"), [("11", True), ("12", False), (None, False)])
def test_a_requeued_job_with_a_named_run_does_not_resume_another_jobs_run(job, goes_on, script_of, slurm, tmp_path):
    script = script_of("--processes", "2", "demo", "name=mine", f"output={tmp_path}/runs")
    begun(tmp_path / "runs/mine", job)
    slurm.run(script, 11, SLURM_RESTART_COUNT="1")
    assert ("--resume" in slurm.launched()[0]) is goes_on


@pytest.mark.daily(every=5)
@pytest.mark.parametrize(
    ("launch", "finished", "code", "requeued"),
    [(75, False, 0, ["7"]), (0, True, 0, []), (75, True, 0, []), (2, False, 2, []), (3, False, 3, [])],
)
def test_a_job_stopped_at_a_checkpoint_is_requeued(launch, finished, code, requeued, script_of, slurm, tmp_path):
    script = script_of("--processes", "2", "demo", f"output={tmp_path}/runs")
    (tmp_path / "runs/demo-7").mkdir(parents=True)
    if finished:
        (tmp_path / "runs/demo-7/summary.json").touch()
    assert slurm.run(script, LAUNCH_CODE=str(launch)) == (code, "")
    assert slurm.requeued() == requeued


@pytest.mark.sweep
def test_a_job_at_its_time_limit_saves_and_is_resumed(script_of, slurm, tmp_path, model_folder):
    """Two processes really train. The shell gets USR1, as before a time limit; then the same job runs again."""
    recipe = [each for each in small(model_folder, tmp_path) if each != "name=run"]
    script, run = script_of("--processes", "2", "demo", *recipe), tmp_path / "demo-7"
    job = slurm.start(script, really=True)
    wait_for(run, 2, job)
    job.send_signal(signal.SIGUSR1)
    _, said = job.communicate(timeout=LIMIT)
    assert job.returncode == 0 and slurm.requeued() == ["7"] and not (run / "summary.json").exists(), said
    go_on = f"rlif launch --resume {run} --processes 2 --slurm"
    assert said.splitlines()[-1] == f"rlif: stopped by SIGUSR1; go on with: {go_on}"
    assert json.loads((run / "environment.json").read_text())["job"] == "7"
    again = slurm.start(script, really=True)
    _, said = again.communicate(timeout=LIMIT)
    assert again.returncode == 0 and slurm.requeued() == ["7"], said
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 20 and (run / "summary.json").exists()
