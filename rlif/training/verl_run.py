"""Runs a recipe by verl: writes what verl reads into a run folder, starts its command line, and collects what it left.

verl trains in processes of its own, on Ray. Inside them `rlif.engines.verl` measures rewards and writes metrics and
completions into the run folder, which every machine must see. A resumed run goes on from verl's latest checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif.config.recipe import Recipe
from rlif.engines.verl.checks import check_config, check_loaded, compose
from rlif.engines.verl.options import DATA, Machines, command, translate
from rlif.engines.verl.settings import FOLDER, PROBLEMS
from rlif.errors import DataError, MachineError
from rlif.exporting.card import write_card
from rlif.files.atomic import sync_tree, write_rows
from rlif.files.inside import remove
from rlif.files.jsonl import read_lines
from rlif.files.lock import locked
from rlif.guard.limits import Guard
from rlif.guard.monitor import Alarm
from rlif.launching.commands import Layout, again
from rlif.rewards.terms import reads_problems
from rlif.runs.folder import Run
from rlif.runs.paths import check_code
from rlif.runs.rollback import alarms, guard_summary
from rlif.training.faults import says_how_to_go_on
from rlif.training.prepare import PreparedRun, changes_since, facts_of, prepare
from rlif.training.session import key_of_prompt, problems_by_prompt, write_verdicts

if TYPE_CHECKING:
    from rich.console import Console


def train_by_verl(
    recipe: Recipe, *, name: str, resume: Run | None, console: Console, machines: Machines | None = None
) -> Run:
    """Trains a model by verl and returns the run folder.

    Args:
        machines: GPUs of each machine; by default those of this one.

    Raises:
        RlifError: something in the recipe, the data, the model or verl's environment that the user can put right.
    """
    check_loaded()
    machines = machines or Machines(_gpus())
    if resume is not None and resume.is_finished:
        console.out(f"{resume.path} is finished; there is nothing to continue", highlight=False)
        return resume
    if resume is not None:
        check_code(recipe, resume.path)
    prepared = prepare(recipe, machines.gpus * machines.nodes)
    for note in prepared.notes:
        console.out(note, highlight=False)
    with says_how_to_go_on(console, resume) as state, ExitStack() as held:
        facts = facts_of(prepared)
        if resume is None:
            run = Run.create(prepared.recipe, name, held)
        else:
            held.enter_context(locked(resume.path))
            run = resume
            for note in changes_since(prepared, run, facts):
                console.out(note, highlight=False)
        try:
            options = translate(prepared.recipe, machines, run.path.absolute())
            check_config(compose(options), prepared.recipe)
        except Exception:
            if resume is None:
                remove(run.path)
            raise
        state.run = run
        layout = Layout(machines.gpus * machines.nodes, machines.nodes)  # verl's checkpoints are of so many processes
        run.again = f"go on with: {again(run.path, layout)}"
        run.write_fingerprint(facts)
        write_inputs(prepared, run)
        console.out(f"run folder {run.path}", highlight=False)
        started = time.perf_counter()
        place = command({"hydra.run.dir": str(run.path.absolute() / FOLDER / "hydra")})  # else in the current folder
        done = subprocess.run([sys.executable, "-m", "verl.trainer.main_ppo", *command(options), *place])
        if done.returncode:
            raise MachineError(
                f"verl ended with exit code {done.returncode}; its own message is above. What the run had saved is"
                f" kept; {run.go_on}"
            )
        _collect(prepared, run, time.perf_counter() - started)
        if not run.model.is_dir():
            console.out(
                f"the trained weights are in verl's checkpoints, {run.at(FOLDER)}; docs/verl.md says how to read them",
                highlight=False,
            )
    return run


def _gpus() -> int:
    import torch

    if found := torch.cuda.device_count():
        return found
    raise MachineError(
        "engine verl samples by vLLM on a GPU, and there is none here; print its options with --dry-run."
    )


def write_inputs(prepared: PreparedRun, run: Run) -> None:
    """Writes the prompts, which verl reads, and the problems where rewards read them; else no gold reaches verl."""
    import pyarrow
    from pyarrow import parquet

    folder = run.at(*Path(FOLDER).parts)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"data_source": prepared.task.name, "prompt": prompt, "reward_model": {"style": "rule", "ground_truth": ""}}
        | {"extra_info": {"index": number}}
        for number, prompt in enumerate(prepared.prompts())
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / DATA)
    if reads_problems(prepared.recipe):
        lines = [asdict(problem) for problem in prepared.rewarded]
        try:
            json.dumps(lines)
        except TypeError as error:
            raise DataError(
                f"the problems of task {prepared.task.name} cannot be written for verl: {error}."
            ) from error
        write_rows(folder / PROBLEMS, lines)


def _collect(prepared: PreparedRun, run: Run, seconds: float) -> None:
    """Adds verdicts to the kept completions, takes over the trained weights, and writes the summary."""
    problems = problems_by_prompt(prepared.prompts(), prepared.problems)
    for path in run.files("completions/step-*.jsonl"):
        rows = [row for _, row in read_lines(path)]
        write_verdicts(prepared.task, [problems.get(key_of_prompt(row["prompt"])) for row in rows], rows)
        write_rows(path, rows)
    metrics = run.metrics()
    steps = metrics[-1]["step"] if metrics else 0
    summary: dict[str, Any] = {
        "seed": prepared.recipe.seed,
        "steps": steps,
        "seconds": round(seconds, 1),
        "reward": prepared.recipe.reward,
        "path": "verl",
        "extra_passes": 0,
        "evaluations": {},
        "guard": guard_summary(run, prepared.recipe.guard, None, ending_alarm(prepared.recipe.guard, run)),
    }
    _take_model(run, summary)
    run.write_summary(summary)


def ending_alarm(guard: Guard, run: Run) -> Alarm | None:
    """Returns the alarm that ended the run, if one did: with policy stop the first."""
    found = [Alarm(**row) for row in alarms(run) if row["severity"] == "alarm"]
    return min(found, key=lambda alarm: alarm.since) if found and guard.policy == "stop" else None


def _take_model(run: Run, summary: dict[str, Any]) -> None:
    """Copies the weights of verl's latest checkpoint into `model/`; there are none where nothing was saved."""
    found = run.files(f"{FOLDER}/global_step_*/actor/huggingface")
    saved = [path for path in found if any(path.glob("*.safetensors"))]
    if not saved:
        return
    latest = max(saved, key=lambda path: int(re.findall(r"global_step_(\d+)", str(path))[-1]))
    draft = run.at(".model.draft")
    remove(draft)
    shutil.copytree(latest, draft)
    write_card(draft, run, summary)
    sync_tree(draft)
    remove(run.model)
    draft.rename(run.model)
