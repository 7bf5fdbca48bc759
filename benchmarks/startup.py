"""Times `import rlif`, `rlif --help` and an empty Python process, each as the median over fresh processes.

    python benchmarks/startup.py [results/bench-startup.md]

A file is written only if it is named.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 11
COMMANDS = {
    "python, empty": ["-c", "pass"],
    "import rlif": ["-c", "import rlif"],
    "rlif --help": ["-m", "rlif", "--help"],
}


def median_seconds(arguments: list[str]) -> float:
    """Runs Python with these arguments and returns the median of its wall time."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Prints the table, and writes it to the files that the command line names."""
    lines = ["| start | seconds |", "|---|---:|"]
    lines += [f"| {name} | {median_seconds(arguments):.3f} |" for name, arguments in COMMANDS.items()]
    table = "\n".join([*lines, "", f"Median of {RUNS} processes: `python benchmarks/startup.py`."])
    print(table)
    for path in sys.argv[1:]:
        Path(path).write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
