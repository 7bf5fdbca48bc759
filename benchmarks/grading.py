"""Times the comparison of answers: golds of GSM8K and MATH against themselves, respelled so that none is equal as text.

    RLIF_DATA=DATA python benchmarks/grading.py [results/bench-grading.md]

A file is written only if it is named. benchmarks/programs.py times programs.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import rlif
from rlif.answers.equality import equal, equal_all

RESPELL: dict[str, Callable[[str], str]] = {
    "gsm8k": lambda gold: f"\\boxed{{{gold}.0}}",
    "math": lambda gold: f"0+{gold}",  # an expression, so that sympy must evaluate it
}


def seconds(task: str) -> tuple[int, float]:
    """Returns the number of golds of a test split, and the time to compare all with their respellings."""
    golds = [problem.gold for problem in rlif.TASKS[task].load("test") if problem.gold]
    start = time.perf_counter()
    equal_all([(RESPELL[task](gold), gold) for gold in golds])
    return len(golds), time.perf_counter() - start


def main() -> None:
    """Prints the table, and writes it to the files that the command line names."""
    equal("\\sqrt{2}", "2^{1/2}")  # starts a process
    lines = ["| golds | number | seconds |", "|---|---:|---:|"]
    for task in RESPELL:
        number, taken = seconds(task)
        lines.append(f"| {task} | {number:,} | {taken:.1f} |")
    table = "\n".join([*lines, "", "Once, on all cores: `RLIF_DATA=DATA python benchmarks/grading.py`."])
    print(table)
    for path in sys.argv[1:]:
        Path(path).write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
