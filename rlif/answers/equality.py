"""Compares answers of mathematical problems, in processes that can be killed.

Lists, tuples, intervals, matrices, numbers and words are compared here, by `rlif.answers.comparison`, in microseconds.
Other expressions are evaluated by sympy, in processes of their own (`rlif.answers.equality_worker`). A process is
killed when an expression takes too long, so a hostile expression affects only its own item. Works from any thread.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from rlif import progress
from rlif.answers.clusters import charge, clusters, seconds_left
from rlif.answers.comparison import same
from rlif.answers.spelling import LONGEST
from rlif.errors import MachineError

SECONDS = 12.0  # for one comparison
ALWAYS_COMPARED = 100  # characters of two answers together; longer ones may take a second, also without a process
ROOT = Path(__file__).parents[2]  # of this rlif
WORKERS = 16  # at most; each takes 0.1 GiB


def equal(answer: str, gold: str) -> bool:
    r"""Compares two answers, with or without box, dollars or Markdown; recent results are cached.

    Example:
        >>> equal("**12 1/2**", "\\frac{25}{2}"), equal("(1, 2)", "(2, 1)"), equal("x > 3", "(3, \\infty)")
        (True, False, True)
    """
    if seconds_left() <= 0 and len(answer) + len(gold) > ALWAYS_COMPARED:
        return answer == gold
    verdict = _at_once(answer, gold)
    return _compare(answer, gold, SECONDS) if verdict is None else verdict


def equal_all(pairs: Sequence[tuple[str, str]], seconds: float = SECONDS) -> list[bool]:
    """Compares many pairs of answer and gold, on all cores.

    Args:
        pairs: expressions; each distinct pair is compared once.
        seconds: time limit of a comparison; an answer that exceeds it counts as wrong.
    """
    verdicts: dict[tuple[str, str], bool | None] = {pair: _at_once(*pair) for pair in dict.fromkeys(pairs)}
    left = [pair for pair, verdict in verdicts.items() if verdict is None]
    threads = max(1, min(_cores(), len(left)))
    with ThreadPoolExecutor(threads) as pool, progress.task("grading answers", len(left)) as advance:
        for pair, verdict in zip(left, pool.map(lambda pair: _compare(pair[0], pair[1], seconds), left), strict=True):
            verdicts[pair] = verdict
            advance()
    return [bool(verdicts[pair]) for pair in pairs]


def compare_ahead(groups: Sequence[Sequence[str | None]]) -> None:
    """Compares the answers of each group as `clusters` does, groups in parallel, to fill the cache of `equal`."""
    with ThreadPoolExecutor(_cores()) as pool, progress.task("comparing answers", len(groups)) as advance:
        for _ in pool.map(lambda answers: clusters(answers, equal), groups):
            advance()


def _cores() -> int:
    """Returns the number of parallel comparisons: the machine's cores, shared by the run's processes on it."""
    return max(1, min(WORKERS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class _UndecidedError(Exception):
    """The answer has an expression that only a worker may evaluate."""


@lru_cache(maxsize=2**16)
def _at_once(answer: str, gold: str) -> bool | None:
    """Compares two answers without evaluating anything; None if that does not decide."""
    if max(len(answer), len(gold)) > LONGEST:
        return bool(answer.strip()) and answer == gold
    if answer.isdecimal() and gold.isdecimal() and answer.isascii() and gold.isascii():
        return answer.lstrip("0") == gold.lstrip("0")
    try:
        return same(answer, gold, _undecided)
    except _UndecidedError:
        return None
    except RecursionError:
        return False


def _undecided(answer: str, gold: str) -> bool:
    raise _UndecidedError


def _compare(answer: str, gold: str, seconds: float) -> bool:
    """Compares in a worker; False if that takes too long."""
    try:
        return _decide(answer, gold, seconds)
    except TimeoutError:
        return False


@lru_cache(maxsize=2**16)
def _decide(answer: str, gold: str, seconds: float) -> bool:
    """Raises TimeoutError, which is not cached, if the time of a group is what ran out."""
    limit = min(seconds, seconds_left())
    if limit < seconds and (spent := _in_vain.get((answer, gold))):  # a group is compared ahead, then again
        charge(spent)
        raise TimeoutError
    if limit <= 0:
        raise TimeoutError
    with _lock:
        worker = _idle.pop() if _idle else Worker()
    try:
        verdict = worker.compare((answer, gold), limit)
    finally:
        with _lock:
            _idle.append(worker)
    if verdict is None and limit < seconds:
        _in_vain[answer, gold] = limit
        raise TimeoutError
    return bool(verdict)


class Worker:
    """One process that compares; a new one replaces a process that was killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def compare(self, pair: tuple[str, str], seconds: float) -> bool | None:
        """Compares a pair; returns None if that takes too long, False if it kills two processes."""
        for _ in range(2):
            if self.process is None:
                self._start()
            reply = self._ask(pair, seconds)
            if reply:
                return json.loads(reply)
            self.stop()
            if reply is None:
                return None
        return False

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlif.answers.equality_worker"],
            cwd=ROOT,  # from which -m imports first: this rlif, and no other file of the user's
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        # Waits until the process has loaded sympy, which does not count as time of a comparison.
        if self._ask((r"\sqrt{4}", r"\log_2 4"), None) != "true\n":
            self.stop()
            raise MachineError("the process that compares answers does not start; is latex2sympy2_extended installed?")

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
_in_vain: dict[tuple[str, str], float] = {}  # seconds that groups gave to a pair until their time was out
_lock = threading.Lock()


@atexit.register
def _stop_workers() -> None:
    while _idle:
        _idle.pop().stop()


os.register_at_fork(after_in_child=_idle.clear)  # a forked process must not use its parent's pipes
