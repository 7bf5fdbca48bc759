"""Trains a real model on easy families by several rewards and seeds, one run at a time. The plan is in docs/log.md.

    python scripts/real_base.py                          # the model that all runs start from
    nice -n 19 python scripts/real_study.py              # hours; the same command goes on after a stop
    python scripts/real_results.py                       # the tables, of whatever is finished

Families and the second signal are chosen by the label-free columns of results/real-base-probe.json. Each run is the
recipe real.yaml with another reward, else equal. After a run, eight samples are drawn for each of some held-out
problems, and its weights are removed. The base is sampled in the same way for each family, and at lower temperatures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_probe import TAUGHT, chosen, other_signal
from refusals import call
from rich.console import Console

import rlif
from rlif.files.atomic import replace_file
from rlif.runs.folder import Run
from rlif.tasks.easy import ALONE, PREFIX

RECIPE = Path(__file__).with_name("real.yaml")
PROBE = Path(__file__).parents[1] / "results/real-base-probe.json"
KEPT = PROBE.with_name("real.json")
SAMPLED = 32  # held-out problems that get eight samples
COOLER = (0.25, 0.5, 0.75)  # at these temperatures the base is sampled, too: a control, sharper without training
FAMILIES, SEEDS = 2, (0, 1, 2)


@dataclass(frozen=True)
class Planned:
    """One run of the study."""

    family: str
    method: str
    reward: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-seed{self.seed}"

    def folder(self, runs: Path) -> Path:
        """Returns the run folder; each family has a folder of runs, as `rlif compare` reads them."""
        return runs / self.family / self.name

    def kept(self) -> bool:
        """Tells whether results/real.json has the run, whose folder may be gone."""
        runs = json.loads(KEPT.read_text(encoding="utf-8"))["runs"] if KEPT.is_file() else []
        return (self.family, self.method, self.seed) in {(run["family"], run["method"], run["seed"]) for run in runs}

    @property
    def overrides(self) -> list[str]:
        """The keys of real.yaml that this run changes; accuracy is logged, and only rewarded where it is the reward."""
        rewards = {"accuracy": 0} | {self.reward: 1}
        others = [family for family in TAUGHT if family != self.family]
        return [
            f"task={task_of(self.family)}",
            f"reward={json.dumps(rewards)}",
            f"evaluate.tasks={json.dumps([task_of(family) for family in (self.family, *others)])}",
            f"seed={self.seed}",
            f"name={self.name}",
        ]


def task_of(family: str, sampled: bool = False) -> str:
    """Names a family's task without solved examples; drawn eight times where `sampled`."""
    return f"{PREFIX}{family}.{ALONE}{'-sampled' if sampled else ''}"


def methods(other: str) -> dict[str, str]:
    """Names the reward of each method, in the order in which they run."""
    return {
        "intuitor": "self_certainty",
        "random": "random",
        "grpo-gold": "accuracy",
        "length": "length",
        "grpo-pv": "plurality_vote",
        other.replace("_", "-"): other,
    }


def plan(probe: Path, families: Sequence[str] | None = None, seeds: Sequence[int] = SEEDS) -> list[Planned]:
    """Lists the runs: the families with the fewest tokens first, all methods of a family, then the next seed.

    Args:
        families: these in place of the first of the probe's label-free order.
    """
    if not probe.is_file():
        raise SystemExit(f"there is no {probe}; draw and tabulate the probe of the base first, see real_probe.py.")
    found = {f["family"]: f for f in json.loads(probe.read_text(encoding="utf-8"))["families"]}
    names = list(families or chosen([*found.values()])[:FAMILIES])
    names.sort(key=lambda name: found[name]["tokens"])
    return [
        Planned(name, method, reward, seed)
        for seed in seeds
        for name in names
        for method, reward in methods(other_signal(found[name])).items()
    ]


def sample(model: str, family: str, file: Path, temperature: float = 1.0) -> None:
    """Draws eight samples for each of some held-out problems and keeps the scores, unless the file is there."""
    if file.is_file():
        return
    scores = rlif.evaluate(model, task_of(family, sampled=True), limit=SAMPLED, temperature=temperature)
    replace_file(file, json.dumps(scores.as_dict()) + "\n")


def sample_base(family: str, runs: Path) -> None:
    """Samples the base of all runs on a family, at lower temperatures too."""
    model = rlif.load_recipe(RECIPE).model
    sample(model, family, runs / f"base-{family}.json")
    for temperature in COOLER:
        sample(model, family, runs / f"base-{family}-at-{temperature}.json", temperature)


def carry_out(planned: Planned, runs: Path) -> None:
    """Trains one run, or goes on with it, samples its model, and removes its weights."""
    path = planned.folder(runs)
    if (path / "sampled.json").is_file() or planned.kept():
        remove_weights(path)
        return
    started = time.time()
    recipe = rlif.load_recipe(RECIPE, [*planned.overrides, f"output={path.parent}"])
    begun = Run.open(path) if (path / "begun.json").is_file() else None
    if begun is None:
        shutil.rmtree(path, ignore_errors=True)
    run = rlif.train(begun.recipe() if begun else recipe, resume=begun, console=Console(quiet=True))
    sample(str(run.model), planned.family, path / "sampled.json")
    remove_weights(path)
    print(f"{time.strftime('%H:%M:%S')} {planned.family} {planned.name}: {time.time() - started:.0f} s", flush=True)


def remove_weights(path: Path) -> None:
    for part in ("model", "checkpoints"):
        shutil.rmtree(path / part, ignore_errors=True)


def selected(runs: Sequence[Planned], args: Any) -> Iterator[Planned]:
    """Yields the runs that the options ask for."""
    for planned in runs:
        if not args.methods or planned.method in args.methods:
            yield planned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/real"), help="folder of run folders")
    parser.add_argument("--families", nargs="+", help="default: those that the probe chooses")
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--list", action="store_true", help="only list the runs, and which are finished")
    args = parser.parse_args()
    runs = [*selected(plan(PROBE, args.families, args.seeds), args)]
    if args.list:
        for planned in runs:
            done = planned.kept() or (planned.folder(args.runs) / "sampled.json").is_file()
            print(f"{'done' if done else 'open'}  {planned.family} {planned.name}  {planned.reward}")
        return
    args.runs.mkdir(parents=True, exist_ok=True)
    for planned in runs:
        sample_base(planned.family, args.runs)
        carry_out(planned, args.runs)


if __name__ == "__main__":
    call(main)
