"""Raises alarms about a run from what it logs, without labels.

For each sign of `SIGNS`, at each logged step that has it:

    start     mean of its first `start` observations
    reading   mean of its last `window` observations; nothing before there are `start` of them
    beyond    the reading, compared with the start as the sign says, is past its limit
    raised    after `patience` consecutive readings beyond; `since` is the step of the first of them
    cleared   after `patience` consecutive readings within

So one odd step raises nothing. A value that is not finite is raised at once. A mean over no scored completion counts as
missing; the sign `unscorable` counts those. Policies act on an `alarm`; a `warning` is only logged.

    log         log the alarm and continue
    stop        save a checkpoint and end the run
    rollback    return to the last healthy checkpoint and continue with a KL weight `strengthen` times as large, at most
                `rollbacks` times; then stop. Without a healthy checkpoint, from the start

A checkpoint is healthy if no alarm had been raised by then and no reading of an alarm's sign was beyond its limit.
After the first alarm no checkpoint is healthy: without labels, a recovery resembles some collapses.

The guard misses wrong content in completions of the usual length, form and distance from the start. With training.beta
0, KL is not measured and its signs are off. Accuracy is not read. docs/log.md describes how the limits were found;
results/guard.md counts hits and false stops.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from rlif.files.atomic import is_number
from rlif.guard.limits import Guard
from rlif.guard.signs import NON_FINITE, SIGNS, Reading, Severity, Sign

FINITE = ("loss", "grad_norm", "kl", "entropy", "reward", "self_certainty")
SCORED = ("reward", "self_certainty")  # means over completions that could be scored


@dataclass(frozen=True)
class Alarm:
    """Holds a sign that was raised."""

    sign: str
    severity: Severity
    step: int
    since: int
    value: float | None
    limit: float | None
    seen: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        advice = f"Usual cause: {self.cause}. Try: {self.remedy}."
        return f"{self.severity} at step {self.step}: {self.seen} (since step {self.since}). {advice}"


@dataclass
class Watch:
    """Holds the state of the monitor. All of it is JSON, so a checkpoint keeps it exactly."""

    first: dict[str, list[float]] = field(default_factory=dict)  # the first observations of each metric
    recent: dict[str, list[float]] = field(default_factory=dict)  # its last observations
    # consecutive readings beyond the limit (positive) or, of a raised sign, within it (negative)
    beyond: dict[str, int] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)  # step of the first of them
    raised: list[str] = field(default_factory=list)  # signs that are raised now
    alarm: dict[str, Any] | None = None  # the first alarm; checkpoints are not healthy from its `since` on
    healthy: int | None = None  # step of the last healthy checkpoint


class Monitor:
    """Watches a run step by step.

    Args:
        guard: limits.
        unread: keys that this kind of run does not read; remedies that name one are not given.

    Example:
        >>> monitor = Monitor(Guard(start=1, window=1, patience=2))
        >>> [len(monitor.step(step, {"kl": kl})) for step, kl in enumerate([0.0, 0.3, 0.4, 0.5], start=1)]
        [0, 0, 1, 0]
    """

    def __init__(self, guard: Guard, unread: Sequence[str] = ()):
        self.guard, self.unread, self.watch = guard, unread, Watch()

    def step(self, step: int, observed: Mapping[str, Any]) -> list[Alarm]:
        """Returns the alarms that a step raises, from its metrics by name; missing ones are skipped."""
        watch = self.watch
        raised = self._check_finite(step, observed)
        numbers = {metric: value for metric, value in observed.items() if is_number(value)}
        for metric in {sign.metric for sign in SIGNS.values()} & set(numbers):
            first, recent = watch.first.setdefault(metric, []), watch.recent.setdefault(metric, [])
            if len(first) < self.guard.start:
                first.append(float(numbers[metric]))
            recent.append(float(numbers[metric]))
            del recent[: -self.guard.window]
        for name, sign in SIGNS.items():
            limit = getattr(self.guard, name)
            if limit is not None and sign.metric in numbers and len(watch.first[sign.metric]) >= self.guard.start:
                raised += self._compare(step, name, limit)
        alarms = sorted((alarm for alarm in raised if alarm.severity == "alarm"), key=lambda alarm: alarm.since)
        if watch.alarm is None and alarms:
            watch.alarm = asdict(alarms[0])
        return raised

    @property
    def alarm(self) -> Alarm | None:
        """Returns the first alarm of the run, on which the policies act."""
        return Alarm(**self.watch.alarm) if self.watch.alarm else None

    def is_healthy(self) -> bool:
        """Tells whether a checkpoint taken now is healthy."""
        beyond = (name for name, count in self.watch.beyond.items() if count > 0)
        return self.watch.alarm is None and not any(SIGNS[name].severity == "alarm" for name in beyond if name in SIGNS)

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON."""
        return asdict(self.watch)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self.watch = Watch(**state)

    def _compare(self, step: int, name: str, limit: float) -> list[Alarm]:
        """Counts consecutive readings on the other side of the limit than the sign's present state."""
        watch, sign = self.watch, SIGNS[name]
        recent, start = watch.recent[sign.metric], fmean(watch.first[sign.metric])
        spreads = watch.first.get("reward_spread")
        reading = Reading(fmean(recent), start, tuple(recent), fmean(spreads) if spreads else None)
        value = sign.compare(reading)
        up = name in watch.raised
        if ((value - limit) * sign.beyond > 0) == up:
            watch.beyond.pop(name, None)
            if not up:
                watch.since.pop(name, None)
            return []
        count = abs(watch.beyond.get(name, 0)) + 1
        if not up:
            watch.since.setdefault(name, step)
        watch.beyond[name] = -count if up else count
        if count < self.guard.patience:
            return []
        del watch.beyond[name]
        if up:
            watch.raised.remove(name)
            del watch.since[name]
            return []
        watch.raised.append(name)
        seen = sign.seen.format(value=value, reading=reading.value, start=start, limit=limit)
        return [Alarm(name, sign.severity, step, watch.since[name], value, limit, seen, sign.cause, self._remedy(sign))]

    def _remedy(self, sign: Sign) -> str:
        parts = re.split("(?<=[,;]) ", sign.remedy)
        return " ".join(part for part in parts if not any(key in part for key in self.unread)).rstrip(",;")

    def _check_finite(self, step: int, observed: Mapping[str, Any]) -> list[Alarm]:
        name, sign, raised = "non_finite", NON_FINITE, self.watch.raised
        known = (metric for metric in FINITE if metric in observed and not _is_empty_mean(metric, observed))
        broken = [metric for metric in known if not is_number(observed[metric])]
        if bool(broken) == (name in raised):
            return []
        if not broken:
            raised.remove(name)
            return []
        raised.append(name)
        seen = sign.seen.format(names=" and ".join(broken))
        return [Alarm(name, sign.severity, step, step, None, None, seen, sign.cause, self._remedy(sign))]


def _is_empty_mean(metric: str, observed: Mapping[str, Any]) -> bool:
    """Tells whether a mean is missing since no completion could be scored, e.g. all are truncated and masked."""
    unscored = 1 in (observed.get("unscorable"), observed.get(f"{metric}_unscorable"))
    value = observed[metric]
    return metric in SCORED and unscored and (value is None or value != value)


def replay(
    guard: Guard, metrics: Iterable[Mapping[str, Any]], rollouts: Mapping[int, Mapping[str, float]] | None = None
) -> list[Alarm]:
    """Returns the alarms that a guard would have raised over the metrics of a run folder.

    Args:
        metrics: rows of `Run.metrics`, in order.
        rollouts: `rlif.guard.health` by step, for runs whose metrics lack it.

    Example:
        >>> from rlif.runs.folder import Run
        >>> replay(Guard(), Run.open("runs/demo-collapse").metrics())[0].sign
        'kl'
    """
    monitor, rollouts = Monitor(guard), rollouts or {}
    return [alarm for row in metrics for alarm in monitor.step(row["step"], {**rollouts.get(row["step"], {}), **row})]


def uncleared_alarms(guard: Guard, metrics: Iterable[Mapping[str, Any]]) -> list[Alarm]:
    """Returns the alarms of `replay` that are still raised at the end.

    Example:
        >>> from rlif.runs.folder import Run
        >>> [alarm.sign for alarm in uncleared_alarms(Guard(), Run.open("runs/demo").metrics())]
        []
    """
    monitor = Monitor(guard)
    latest = {alarm.sign: alarm for row in metrics for alarm in monitor.step(row["step"], row)}
    return [latest[sign] for sign in monitor.watch.raised]
