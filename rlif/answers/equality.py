"""Compares answers mathematically, by math-verify (sympy underneath), in processes that can be killed.

math-verify parses bare LaTeX as prose (108 of the 500 golds of MATH-500 come out wrong), so each side is put into a
box. In addition: numbers in different bases differ (it drops the base), an ordered pair is not a list, 1e3 is a number.
Two numbers that agree to six digits are equal. That x >= 0 is [0, oo) is not recognized.

Whole numbers of up to six digits are compared as text, with the same result as math-verify and a thousand times as
fast. All other comparisons run in worker processes (`rlif.answers.equality_worker`). A worker is killed when an
expression takes too long, so a hostile expression affects only its own item. Works from any thread.
"""

import atexit
import json
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from rlif.answers.clusters import clusters
from rlif.errors import MachineError

LONGEST = 2000  # characters of an answer; longer ones count as wrong, because sympy's parser is not linear
WHOLE = re.compile(r"0|-?[1-9]\d{0,5}", re.ASCII)
SECONDS = 12.0  # for one comparison; the worker's own limits add up to 10
WORKERS = 16  # at most; each takes 0.1 GiB


def equal(answer: str, gold: str) -> bool:
    """Compares two mathematical expressions, given without box or dollars; recent results are cached."""
    answer, gold = answer.strip(), gold.strip()
    return answer == gold or (not _differ(answer, gold) and _compare(answer, gold, SECONDS))


def equal_all(pairs: Sequence[tuple[str, str]], seconds: float = SECONDS) -> list[bool]:
    """Compares many pairs of answer and gold, on all cores.

    Args:
        pairs: expressions; each distinct pair is compared once.
        seconds: time limit of a comparison; an answer that exceeds it counts as wrong.
    """
    stripped = [(answer.strip(), gold.strip()) for answer, gold in pairs]
    different = [pair for pair in dict.fromkeys(stripped) if pair[0] != pair[1] and not _differ(*pair)]
    with ThreadPoolExecutor(max(1, min(_cores(), len(different)))) as pool:
        verdicts = dict(zip(different, pool.map(lambda pair: _compare(*pair, seconds), different), strict=True))
    return [answer == gold or verdicts.get((answer, gold), False) for answer, gold in stripped]


def compare_ahead(groups: Sequence[Sequence[str | None]]) -> None:
    """Compares the answers of each group as `clusters` does, groups in parallel, to fill the cache of `equal`."""
    with ThreadPoolExecutor(_cores()) as pool:
        list(pool.map(lambda answers: clusters(answers, equal), groups))


def _cores() -> int:
    """Returns the number of parallel comparisons: the machine's cores, shared by the run's processes on it."""
    return max(1, min(WORKERS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


@lru_cache(maxsize=2**16)
def _compare(answer: str, gold: str, seconds: float) -> bool:
    with _lock:
        worker = _idle.pop() if _idle else Worker()
    try:
        return worker.compare((answer, gold), seconds)
    finally:
        with _lock:
            _idle.append(worker)


def _differ(answer: str, gold: str) -> bool:
    """Checks whether two different texts are different answers without parsing them."""
    whole = WHOLE.fullmatch(answer) and WHOLE.fullmatch(gold)
    return bool(whole) or not answer or max(len(answer), len(gold)) > LONGEST


class Worker:
    """One process that compares; a new one replaces a process that was killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def compare(self, pair: tuple[str, str], seconds: float) -> bool:
        """Compares a pair; returns False if that takes too long, or kills two processes."""
        for _ in range(2):
            if self.process is None:
                self._start()
            reply = self._ask(pair, seconds)
            if reply:
                return json.loads(reply)
            self.stop()
            if reply is None:
                break
        return False

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlif.answers.equality_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        # Waits until the process has loaded sympy, which does not count as time of a comparison.
        if self._ask(("1/2", "0.5"), None) != "true\n":
            self.stop()
            raise MachineError("the process that compares answers does not start; is math-verify installed?")

    def _ask(self, pair: tuple[str, str], seconds: float | None) -> str | None:
        """Returns the process's reply: "" if it has ended, None if it takes too long."""
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(pair) + "\n")
            self.process.stdin.flush()
            in_time, _, _ = select.select([self.process.stdout], [], [], seconds)
            return self.process.stdout.readline() if in_time else None
        except BrokenPipeError:
            return ""

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_idle: list[Worker] = []
_lock = threading.Lock()


@atexit.register
def _stop_workers() -> None:
    while _idle:
        _idle.pop().stop()


os.register_at_fork(after_in_child=_idle.clear)  # a forked process must not use its parent's pipes
