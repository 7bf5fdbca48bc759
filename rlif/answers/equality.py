"""Are two answers equal? Compared mathematically, by math-verify (sympy underneath), in processes that can be killed.

math-verify reads bare LaTeX as prose (108 of the 500 golds of MATH-500 come out wrong), so each side is wrapped in a
box of its own. On top of it: numbers in different bases differ (it drops the base), an ordered pair is no list, 1e3 is
a number. Two numbers that agree to six digits count as equal; that x >= 0 is [0, oo) is not known.

Whole numbers of up to six digits are compared as such, as math-verify would and a thousand times as fast; all other
comparing runs in worker processes (`rlif.answers.equality_worker`) that are killed when an expression takes too
long, so that a hostile one costs one item; it works from any thread.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

from rlif.answers.clusters import clusters
from rlif.errors import MachineError

LONGEST = 2000  # characters of an answer; longer ones are no answers, and sympy's parser is not linear
WHOLE = re.compile(r"0|-?[1-9]\d{0,5}", re.ASCII)
SECONDS = 12.0  # for one comparison; the worker's own limits come to 10
WORKERS = 16  # at most, each takes 0.1 GiB


def equal(answer: str, gold: str) -> bool:
    """Whether two mathematical expressions, given without box or dollars, are equal; the latest are remembered."""
    return _equal(answer.strip(), gold.strip(), SECONDS)


def equal_all(pairs: Sequence[tuple[str, str]], seconds: float = SECONDS) -> list[bool]:
    """`equal` of many pairs of answer and gold, on all cores.

    Args:
        pairs: of expressions; each different pair is compared once.
        seconds: after which a comparison is given up, and its answer taken as wrong.
    """
    stripped = [(answer.strip(), gold.strip()) for answer, gold in pairs]
    asked = [pair for pair in dict.fromkeys(stripped) if pair[0] != pair[1] and not _differ(*pair)]
    with ThreadPoolExecutor(max(1, min(_cores(), len(asked)))) as pool:
        verdicts = dict(zip(asked, pool.map(lambda pair: _compared(*pair, seconds), asked), strict=True))
    return [answer == gold or verdicts.get((answer, gold), False) for answer, gold in stripped]


def compare_ahead(groups: Sequence[Sequence[str | None]]) -> None:
    """Compares the answers of each group as `clusters` will, groups beside each other on all cores, for `equal`."""
    with ThreadPoolExecutor(_cores()) as pool:
        list(pool.map(lambda answers: clusters(answers, equal), groups))


def _cores() -> int:
    """Comparisons at a time: the machine's cores over the processes of this run on it."""
    return max(1, min(WORKERS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _equal(answer: str, gold: str, seconds: float) -> bool:
    """Whether two texts without space around them are equal answers."""
    return answer == gold or (not _differ(answer, gold) and _compared(answer, gold, seconds))


@lru_cache(maxsize=2**16)
def _compared(answer: str, gold: str, seconds: float) -> bool:
    with _borrowed() as worker:
        return worker.compare((answer, gold), seconds)


def _differ(answer: str, gold: str) -> bool:
    """Whether two different texts can be told to be different answers by looking at them."""
    whole = WHOLE.fullmatch(answer) and WHOLE.fullmatch(gold)
    return bool(whole) or not answer or max(len(answer), len(gold)) > LONGEST


class Worker:
    """One process that compares; started again after it had to be killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def compare(self, pair: tuple[str, str], seconds: float) -> bool:
        """Whether the pair is equal; False if that takes too long, or kills two processes."""
        for _ in range(2):
            process = self._running()
            assert process.stdin and process.stdout
            try:
                process.stdin.write(json.dumps(pair) + "\n")
                process.stdin.flush()
                in_time, _, _ = select.select([process.stdout], [], [], seconds)
                line = process.stdout.readline() if in_time else ""
            except BrokenPipeError:
                in_time, line = True, ""
            if line:
                return json.loads(line)
            self.stop()
            if not in_time:
                break
        return False

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rlif.answers.equality_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            self._greet()
        return self.process

    def _greet(self) -> None:
        """Waits until the process has loaded sympy, which is not counted against a comparison."""
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write('["1/2", "0.5"]\n')
            self.process.stdin.flush()
            greeting = self.process.stdout.readline()
        except BrokenPipeError:
            greeting = ""
        if greeting != "true\n":
            self.stop()
            raise MachineError("the process that compares answers does not start; is math-verify installed?")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_idle: list[Worker] = []
_lock = threading.Lock()


@contextmanager
def _borrowed() -> Iterator[Worker]:
    """A worker that nobody else uses; kept afterwards for the next."""
    with _lock:
        worker = _idle.pop() if _idle else Worker()
    try:
        yield worker
    finally:
        with _lock:
            _idle.append(worker)


@atexit.register
def _stop_workers() -> None:
    while _idle:
        _idle.pop().stop()


os.register_at_fork(after_in_child=_idle.clear)  # a forked process must not talk into its parent's pipes
