"""Times small programs in the sandbox: half print what they read, half are judged by tests.

    python benchmarks/programs.py [programs [results/bench-programs.md]]

The time to start a sandbox is included. 2,000 programs should take less than 20 s on two idle processors. The
processors' time depends less on what else the machine does.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from rlif.sandbox.runner import Program, run_programs

PROGRAMS = 2000


def programs(number: int) -> list[Program]:
    """Returns different small programs, each of which must end with status ok."""
    prints = [Program(f"print(int(input()) + {i})", stdin="1\n") for i in range(0, number, 2)]
    tested = [
        Program(f"def f(x):\n    return x + {i}", tests=f"assert call('f', 1) == {i + 1}") for i in range(1, number, 2)
    ]
    return [program for pair in zip(prints, tested, strict=True) for program in pair]


def main() -> None:
    """Prints the table, and writes it where the command line says."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else PROGRAMS
    start = time.perf_counter()
    outcomes = run_programs(programs(number))
    seconds = time.perf_counter() - start
    failed = [outcome for outcome in outcomes if not outcome.ok]
    assert not failed, f"{len(failed)} of {number} programs failed, the first: {failed[0]}"
    workers = len(os.sched_getaffinity(0))
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    used = sum(part.ru_utime + part.ru_stime for part in usage)
    table = "| programs | workers | seconds | programs per second | processor's ms per program |\n"
    table += "|---:|---:|---:|---:|---:|\n"
    table += f"| {number:,} | {workers} | {seconds:.1f} | {number / seconds:.0f} | {1000 * used / number:.1f} |\n"
    print(table, end="")
    for path in sys.argv[2:]:
        Path(path).write_text(f"{table}\n`python benchmarks/programs.py {number}`\n", encoding="utf-8")


if __name__ == "__main__":
    main()
