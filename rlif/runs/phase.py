"""Divides a run into phases, each with a trainer of its own: rounds, and online training after them.

    checkpoints/checkpoint-S/    the model after a phase, S = optimiser steps until then; sealed, with phase.json:
                                 {phase: how many are done, step: S, tokens: sampled so far}
    rounds/NAME/                 work of a phase: round-001, online-001
    rounds/NAME/checkpoints/     the engine's checkpoints while it trains, by its own steps; removed when it is done

A trainer counts steps from 0. `Phase` is the run folder as such a trainer sees it: what it logs gets the steps of the
whole run, and its checkpoints lie in the folder of the phase.

A killed run goes on in the phase after the last sealed model. There, samples and data that were written stay, and so
does the last sealed checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.files.atomic import read_object, replace_file, sync_tree
from rlif.files.inside import remove
from rlif.runs.checkpoints import MANIFEST, in_order, seal, step_of
from rlif.runs.folder import Run

DONE = "phase.json"
# What a trainer's checkpoint has beside the model: only going on within the phase needs it. DPOTrainer saves the
# adapter that is its reference in the folder "ref".
TRAINER = ("optimizer.pt", "scheduler.pt", "scaler.pt", "training_args.bin", "README.md", "ref", MANIFEST)


class Phase(Run):
    """The run folder as the trainer of one phase sees it.

    Args:
        run: the whole run.
        name: of the phase's folder.
        before: optimiser steps of the phases before it.
        tokens: that were sampled in the phases before it.
    """

    def __init__(self, run: Run, name: str, before: int = 0, tokens: int = 0):
        super().__init__(run.path)
        self.again, self.whole = run.again, run
        self.name, self.before, self.tokens = name, before, tokens
        self.folder = run.at("rounds", name)
        self.checkpoints = self.folder / "checkpoints"

    def append_metrics(self, metrics: Mapping[str, Any]) -> None:
        shifted = {"step": metrics["step"] + self.before}
        if isinstance(metrics.get("tokens"), int | float):
            shifted["tokens"] = metrics["tokens"] + self.tokens
        super().append_metrics({**metrics, **shifted})

    def write_completions(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        super().write_completions(step + self.before, ({**row, "step": step + self.before} for row in rows))

    def write_evaluation(
        self, step: int, task: str, scores: Mapping[str, Any], records: Iterable[Mapping[str, Any]]
    ) -> None:
        super().write_evaluation(step + self.before, task, scores, records)

    def write_traceback(self, step: int, text: str) -> Path:
        return super().write_traceback(step + self.before, text)


@dataclass(frozen=True)
class Progress:
    """How far a run in phases has come."""

    phase: int = 0  # phases that are done
    step: int = 0  # optimiser steps of these
    tokens: int = 0  # that they sampled, prompts included
    sampled_tokens: int = 0  # the same without prompts
    model: Path | None = None  # the last model; None for the recipe's own


def phases_of(recipe: Recipe) -> list[str]:
    """Names the phases of a run, in their order.

    Example:
        >>> phases_of(rlif.load_recipe("hybrid"))
        ['round-001', 'round-002', 'online-001']
    """
    rounds, online = recipe.rounds, recipe.online
    assert rounds is not None
    names = []
    for number in range(1, rounds.number + 1):
        names.append(f"round-{number:03d}")
        if online is not None and (online.after == "each" or number == rounds.number):
            names.append(f"online-{number if online.after == 'each' else 1:03d}")
    return names


def read_progress(run: Run) -> tuple[Progress, list[str]]:
    """Finds the last undamaged model of a phase, and describes the damage of later ones."""
    checkpoint, damaged = run.good_checkpoint()
    if checkpoint is None:
        return Progress(), damaged
    found = read_object(checkpoint / DONE)
    names = ("phase", "step", "tokens", "sampled_tokens")
    return Progress(**{name: int(found[name]) for name in names}, model=checkpoint), damaged


def rewind(run: Run, progress: Progress, names: list[str]) -> tuple[int, Path | None]:
    """Removes what came after the step to go on from; returns that step, and the checkpoint within the phase."""
    inner, step = None, progress.step
    if progress.phase < len(names):
        phase = Phase(run, names[progress.phase], progress.step)
        for path in in_order(phase.checkpoints):
            if not (path / MANIFEST).is_file():
                remove(path)
        inner, _ = phase.good_checkpoint()
        step += 0 if inner is None else step_of(inner)
    for name in names[: progress.phase]:
        remove(run.at("rounds", name, "checkpoints"))
    for name in names[progress.phase + 1 :]:
        remove(run.at("rounds", name))
    run.rewind(step)
    return step, inner


def finish(phase: Phase, progress: Progress, sampled_tokens: int, tokens: int) -> Progress:
    """Makes the model of a phase out of its last checkpoint: a sealed folder, or none.

    Args:
        sampled_tokens, tokens: of this phase, without and with prompts.
    """
    last = in_order(phase.checkpoints)[-1]
    done = Progress(
        progress.phase + 1,
        phase.before + step_of(last),
        progress.tokens + tokens,
        progress.sampled_tokens + sampled_tokens,
    )
    run = phase.whole
    run.checkpoints.mkdir(exist_ok=True)
    draft = run.checkpoints / ".phase.draft"
    copy_model(last, draft)
    facts = {name: getattr(done, name) for name in ("phase", "step", "tokens", "sampled_tokens")}
    replace_file(draft / DONE, json.dumps(facts) + "\n")
    target = run.checkpoints / f"checkpoint-{done.step}"
    remove(target)  # torn
    draft.rename(target)
    run.sync_logs()
    seal(target)
    remove(phase.checkpoints)
    return Progress(done.phase, done.step, done.tokens, done.sampled_tokens, target)


def copy_model(source: Path, target: Path, *, leave: tuple[str, ...] = ()) -> None:
    """Copies the model of a checkpoint into a new folder, without what only its trainer needs."""
    remove(target)
    ignored = shutil.ignore_patterns(*TRAINER, "rng_state*.pth", *leave)
    shutil.copytree(source, target, ignore=ignored)
    sync_tree(target)
