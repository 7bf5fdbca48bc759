"""Builds boards: what each method gains on a base, under one setting and over seeds.

A board has the runs of one base that were trained on one task. The recipe's `METHOD_KEYS` make the method, its
`BASE_KEYS` the base. All other keys are the setting, and a board with two settings is refused. With one number per run
s, from held-out accuracy at the evaluated steps:

    gain        end_s - start_s on the task trained on
    transfer    end_s - start_s, mean over the evaluated tasks that were not trained on
    retention   min(1, end_s / start_s), the lowest over those tasks with start_s > 0
    peak        the first step with the best accuracy on the task trained on; it is found by gold answers
    gives way   the step from which on accuracy is lost (`rlif.reporting.analysis`); the run may be too short to see it
    tokens      sampled for training: completions per step x the sum of the mean lengths of all steps

Intervals are Student's over seeds. A difference between two methods is paired by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlif.comparison.checks import check_duplicates, check_evaluations, check_seeds
from rlif.comparison.comparison import read_runs
from rlif.comparison.outcomes import Outcome, run_outcome
from rlif.comparison.summary import RunSummary, flatten
from rlif.config.recipe import Recipe
from rlif.config.rounds import chosen_by
from rlif.config.schedule import read_weight
from rlif.errors import DataError, RecipeError, nearest
from rlif.intervals import Interval, t_interval

METHOD_KEYS = (
    "reward", "annotator", "annotator_decay", "annotator_every", "annotator_copy", "confidence_window", "equivalence",
    "meaning", "mixing", "labels", "order",
)  # fmt: skip
BASE_KEYS = ("model", "revision")
# Keys of neither, that change no number of a board beyond rounding. `check_evaluations` compares evaluations.
IGNORED = (
    "check_memory", "keep_completions", "reward_seconds", "evaluate.columns", "evaluate.batch_size", "vllm_capture",
    "training.use_cpu", "training.per_device_train_batch_size", "training.gradient_checkpointing",
    "training.save_strategy", "training.save_steps", "training.save_total_limit", "training.report_to",
)  # fmt: skip
RANDOM = "random"  # the reward of the control that every method is compared with
ONE_ROLLOUT = ("steps_per_generation", "num_iterations", "gradient_accumulation_steps")


@dataclass(frozen=True)
class Standing:
    """Holds the results of a method on a board. Mappings are by seed; None stands for what is unknown."""

    method: str
    reward: str  # the keys of its recipe that make the method
    seeds: list[int]
    left_out: dict[int, str]  # runs without an end to compare, and why
    gain: Interval
    above_random: Interval | None  # gain minus that of a random reward, over common seeds; None without one
    transfer: Interval | None  # None where nothing else was evaluated
    retention: float | None
    pass_at: tuple[int, float, float] | None  # k and the means of pass@k at the start and at the end
    peaks: dict[int, int]
    lost: dict[int, int]
    falls: dict[int, float]  # best minus end, on the task trained on
    tokens: float | None  # per run

    @property
    def learns(self) -> bool | None:
        """Tells whether the interval of the gain is above 0; None where it includes 0 or is unknown."""
        return _side(self.gain)

    @property
    def beats_random(self) -> bool | None:
        """Tells whether the gain is above that of a random reward; None where that is not decided."""
        return None if self.above_random is None else _side(self.above_random)


@dataclass(frozen=True)
class Board:
    """Holds the standings on one base and task, the largest gain first, and the setting that all share."""

    base: str
    task: str
    setting: dict[str, Any]
    problems: int | None
    start: float | None  # accuracy before training
    others: list[str]  # tasks evaluated and not trained on
    steps: int
    standings: list[Standing]
    runs: list[RunSummary]


def read_boards(what: Sequence[str | Path], without: Sequence[str] = ()) -> list[Board]:
    """Reads run folders, folders of them, files of `rlif compare --out FILE.json`, and folders of such files.

    Args:
        without: methods to leave out.

    Raises:
        DataError: runs cannot be read, share a base, method and seed, or differ in more than base and method.
        RecipeError: there are no runs, or no run is of a method to leave out.
    """
    runs = [run for target in what for run in _read(Path(target))]
    methods = {run.method for run in runs}
    for name in without:
        if name not in methods:
            raise RecipeError(f"no run is of method {name!r}, which is to be left out; {nearest(name, methods)}")
    return boards([run for run in runs if run.method not in without])


def boards(runs: Sequence[RunSummary]) -> list[Board]:
    """Sorts runs into boards, in the order of the runs."""
    if not runs:
        raise RecipeError("there are no runs for a leaderboard; give run folders or files of rlif compare --out.")
    found: dict[tuple[str, str], list[RunSummary]] = {}
    for run in runs:
        found.setdefault((base_of(run), str(run.whole["task"])), []).append(run)
    return [_board(base, task, mine) for (base, task), mine in found.items()]


def base_of(run: RunSummary) -> str:
    """Names the base of a run: its model and, where one was chosen, the revision."""
    model, revision = (run.whole.get(key) for key in BASE_KEYS)
    return f"{Path(str(model)).name if str(model).count('/') > 1 else model}{f'@{revision}' if revision else ''}"


def setting_of(run: RunSummary) -> dict[str, Any]:
    """Returns the keys of a recipe that are neither its method nor its base."""
    watched = run.whole.get("guard") or {}
    only_logs = watched.get("policy", "log") == "log"
    left_out = (*METHOD_KEYS, *BASE_KEYS, *IGNORED, *(["guard"] if only_logs else []))
    return {k: v for k, v in flatten(run.whole).items() if k not in left_out and k.partition(".")[0] not in left_out}


def reward_of(run: RunSummary) -> str:
    """Writes down what makes the method: its reward, and other keys of METHOD_KEYS that are not the default."""
    usual, own = Recipe().model_dump(), run.whole
    keys = [key for key in METHOD_KEYS[1:] if own.get(key) != usual.get(key)]
    parts = [chosen_by(own) or _counted(own["reward"]), *(f"{key} {_reward(own[key])}" for key in keys)]
    return "; ".join(parts)


def rewarded(reward: str | Mapping[str, Any]) -> list[str]:
    """Names what a recipe's reward counts; a weight of 0 is only logged."""
    if isinstance(reward, str):
        return [reward]
    return [name for name, weight in reward.items() if read_weight(name, weight).ever]


def tokens_of(run: RunSummary) -> float | None:
    """Computes the tokens sampled in training; None in rounds, where a step is not logged, or shares its rollout."""
    if run.whole.get("rounds"):
        return None
    training, lengths = run.whole["training"], run.metrics.get("completion_length", [])
    known = [length for length in lengths if length is not None]
    if len(known) != run.steps or any(training.get(key, 1) != 1 for key in ONE_ROLLOUT):
        return None
    return sum(known) * run.whole["problems_per_update"] * training["num_generations"]


def _read(path: Path) -> list[RunSummary]:
    if path.is_dir() and not any(path.rglob("recipe.yaml")) and (files := sorted(path.glob("*.json"))):
        return [run for file in files for run in _read(file)]
    found = read_runs(path)
    if found is None:
        raise DataError(f"{path} holds no runs; a leaderboard reads run folders and files of rlif compare --out.")
    return found[0]


def _board(base: str, task: str, runs: list[RunSummary]) -> Board:
    where = f"on {base} and {task}"
    check_duplicates([(f"{run.method} {where}", run.seed) for run in runs])
    methods: dict[str, list[RunSummary]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    check_seeds(methods)
    check_evaluations(runs)
    _check_setting(runs, where)
    outcomes = {run.label: run_outcome(run, task) for run in runs}
    _check_start(runs, outcomes, where)
    chance = [run for run in runs if rewarded(run.whole["reward"]) == [RANDOM]]
    standings = [_standing(mine, task, chance) for mine in methods.values()]
    starts = [o.start for o in outcomes.values() if o.start]
    return Board(
        base,
        task,
        setting_of(runs[0]),
        problems=max((start.n for start in starts), default=None),
        start=starts[0].mean if starts else None,
        others=_others(runs, task),
        steps=max(run.steps for run in runs),
        standings=sorted(standings, key=lambda row: (row.gain.n == 0, -row.gain.mean if row.gain.n else 0)),
        runs=runs,
    )


def _check_setting(runs: Sequence[RunSummary], where: str) -> None:
    first = setting_of(runs[0])
    for run in runs[1:]:
        mine = setting_of(run)
        for key in first | mine:
            if first.get(key) != mine.get(key):
                raise DataError(
                    f"{where}, {runs[0].label} and {run.label} have different settings: {key} is {first.get(key)!r} and"
                    f" {mine.get(key)!r}; a board has one setting, so leave a method out (--without {run.method}), or"
                    " make a board of its own."
                )


def _check_start(runs: Sequence[RunSummary], outcomes: Mapping[str, Outcome], where: str) -> None:
    """Refuses runs that did not begin with the same weights, as far as their accuracies before training tell."""
    known = [(run, start) for run in runs if (start := outcomes[run.label].start)]
    for run, start in known[1:]:
        other, first = known[0]
        if start.is_below(first) or first.is_below(start):
            raise DataError(
                f"{where}, {other.label} starts at {first} and {run.label} at {start}; these are not the same weights,"
                " so give one of the bases another name."
            )


def _standing(runs: list[RunSummary], task: str, chance: Sequence[RunSummary]) -> Standing:
    gains, by_chance = _changes(runs, task), _changes(chance, task)
    common = [seed for seed in gains if seed in by_chance]
    alone = not chance or runs[0].method == chance[0].method
    counted = [outcome for run in runs if (outcome := run_outcome(run, task)).counts]
    others = _others(runs, task)
    elsewhere = [_changes(runs, other) for other in others]
    seeds = [seed for seed in gains if all(seed in changes for changes in elsewhere)]
    transfer = [sum(changes[seed] for changes in elsewhere) / len(elsewhere) for seed in seeds] if others else []
    spent = [tokens for run in runs if run.counts and (tokens := tokens_of(run)) is not None]
    return Standing(
        runs[0].method,
        reward_of(runs[0]),
        seeds=list(gains),
        left_out={o.seed: o.reason for run in runs if not (o := run_outcome(run, task)).counts},
        gain=t_interval(list(gains.values())).within(-1, 1),
        above_random=None if alone else t_interval([gains[s] - by_chance[s] for s in common]).within(-1, 1),
        transfer=t_interval(transfer).within(-1, 1) if others else None,
        retention=_retention(runs, others),
        pass_at=_pass_at(runs, task),
        peaks={o.seed: o.best_step for o in counted if o.best_step is not None},
        lost={o.seed: o.collapsed for o in counted if o.collapsed is not None},
        falls={o.seed: o.best.mean - o.end.mean for o in counted if o.best and o.end},
        tokens=sum(spent) / len(spent) if spent else None,
    )


def _changes(runs: Sequence[RunSummary], task: str) -> dict[int, float]:
    """Returns end minus start on a task, by seed, of the runs that count."""
    outcomes = [run_outcome(run, task) for run in runs]
    return {o.seed: o.end.mean - o.start.mean for o in outcomes if o.counts and o.start and o.end}


def _others(runs: Sequence[RunSummary], task: str) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.evaluations if name != task))


def _retention(runs: Sequence[RunSummary], others: Sequence[str]) -> float | None:
    """Computes the mean over seeds of the lowest share of a task's accuracy that is kept; None where none is known."""
    kept = []
    for run in runs:
        outcomes = [run_outcome(run, other) for other in others]
        shares = [o.end.mean / o.start.mean for o in outcomes if o.counts and o.start and o.end and o.start.mean > 0]
        if shares:
            kept.append(min(1.0, *shares))
    return sum(kept) / len(kept) if kept else None


def _pass_at(runs: Sequence[RunSummary], task: str) -> tuple[int, float, float] | None:
    """Returns the largest k that all runs have, and pass@k at the start and the end, means over seeds."""
    found = [run.pass_at.get(task, {}) for run in runs if run.counts]
    ks = set.intersection(*(set(passes) for passes in found)) if found else set()
    if not ks:
        return None
    k = max(ks, key=int)
    pairs = [(passes[k][0], passes[k][-1]) for passes in found]
    known = [(first, last) for first, last in pairs if first is not None and last is not None]
    if len(known) != len(found):
        return None
    first, last = (sum(column) / len(known) for column in zip(*known, strict=True))
    return int(k), first, last


def _side(interval: Interval) -> bool | None:
    """Tells on which side of 0 an interval is; None where it includes 0 or is unknown."""
    if interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return None
    return interval.low > 0


def _counted(reward: str | Mapping[str, Any]) -> str:
    """Writes the rewards that count with their weights; one of weight 1 by its name alone."""
    if isinstance(reward, str):
        return reward
    counted = {name: reward[name] for name in rewarded(reward)}
    return next(iter(counted)) if list(counted.values()) == [1] else _reward(counted)


def _reward(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_reward(inner)}" for key, inner in value.items() if inner is not None)
    return str(value)
