"""Shares what every benchmark needs: turns, a median with its spread, the machine, and how a result is written.

Contestants take turns within one process. A round runs each once, and rounds go through all orders. So other jobs, and
memory as the contestant before left it, affect all of them alike. Two contestants are compared by their ratio within a
round; its median and quartiles are reported. A user waits for wall time. CPU time of the process is reported too,
because other jobs do not lengthen it by taking the processor. They still do by taking the cache.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlif.runs.environment import environment

COMMIT = environment()["commit"]  # when measuring began


@dataclass(frozen=True)
class Spread:
    """Holds the median and quartiles of repeated measurements."""

    median: float
    low: float  # quartiles
    high: float
    n: int

    def show(self, digits: int = 3) -> str:
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def spread(values: Sequence[float]) -> Spread:
    """Computes median and quartiles. A single value is all three."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high, len(values))


@dataclass(frozen=True)
class Lap:
    """Holds the seconds of one turn of one contestant."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any], device: str = "cpu") -> Lap:
    """Times one run of `work`; on a GPU until its queue is empty."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise(device)
    return Lap(time.perf_counter() - wall, time.process_time() - cpu)


class Meter:
    """Adds up the CPU time of this thread in chosen functions. It is exact where wall time is too noisy."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a function to add up its time."""

        @functools.wraps(work)
        def metered(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - start

        return metered


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def take_turns(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu", warm_up: int = 1
) -> dict[str, list[Lap]]:
    """Returns the laps of each contestant, round by round, without those of the `warm_up` rounds."""
    laps: dict[str, list[Lap]] = {name: [] for name in contestants}
    orders = list(itertools.permutations(contestants))
    random.Random(0).shuffle(orders)
    for number in range(-warm_up, rounds):
        for name in orders[number % len(orders)]:
            lap = timed(contestants[name], device)
            if number >= 0:
                laps[name].append(lap)
    return laps


def ratio(laps: Mapping[str, Sequence[Lap]], name: str, to: str, clock: str = "wall") -> Spread:
    """Divides the time of one contestant by that of another, round by round."""
    pairs = zip(laps[name], laps[to], strict=True)
    return spread([getattr(mine, clock) / getattr(other, clock) for mine, other in pairs])


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Fits the exponent e of cost ~ size^e by least squares in logarithms; 1 is linear."""
    slope = statistics.linear_regression(torch.tensor(sizes).log().tolist(), torch.tensor(costs).log().tolist()).slope
    return float(slope)


def machine() -> dict[str, Any]:
    """Describes the machine: processor, memory, load, versions, commit."""
    known = {key: value for key, value in environment().items() if key != "folder"}
    return known | {
        "commit": COMMIT,
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Writes a markdown table, line by line."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def write(out: Path, title: str, command: str, text: Sequence[str], result: Mapping[str, Any]) -> None:
    """Writes `out`.json with everything measured and `out`.md with title, command, machine and `text`."""
    found = machine()
    gpus = f", {found['gpus'][0]}" if found["gpus"] else ""
    packages = ", ".join(f"{name} {found['packages'][name]}" for name in ("torch", "transformers", "trl"))
    lines = [
        f"# {title}",
        "",
        f"    {command}",
        "",
        f"{found['processor']}, {found['cpus']} cores, {found['threads']} thread, {found['memory_gib']} GiB{gpus};"
        f" {packages}; commit {found['commit']}; load average at the end {found['load_average'][0]}."
        " Numbers are medians, with quartiles in brackets.",
        "",
        *text,
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    document = {"command": command, "machine": found, **result}
    out.with_suffix(".json").write_text(json.dumps(document, indent=1, default=_plain) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _plain(value: Any) -> Any:
    return asdict(value)


def options(about: str | None, name: str) -> argparse.ArgumentParser:
    """Makes a parser with the option `--out`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results") / f"bench-{name}",
        help="path without suffix; .md and .json are written",
    )
    return parser
