"""An untrusted program, what it may use, and how it ended."""

import dataclasses
from dataclasses import dataclass

from rlif.errors import RecipeError


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Args:
        seconds: wall clock, from start to end, tests included.
        memory_mib: MiB of address space of each process, and of resident memory of all its processes together.
        processes: processes and threads at a time.
        output_bytes: bytes of stdout; more ends the program.
        disk_mib: MiB written to /tmp and /dev/shm together.
    """

    seconds: float = 6.0
    memory_mib: int = 2048
    processes: int = 64
    output_bytes: int = 1 << 20
    disk_mib: int = 64

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise RecipeError(f"a limit must be positive; {name} is {value}.")


@dataclass(frozen=True)
class Program:
    """Untrusted Python, and how to judge it.

    Args:
        source: the program, as the text of program.py. Without tests Python runs that file, with tests it is imported
            as `program`.
        stdin: its standard input.
        tests: trusted Python that runs in another process and passes if it reaches its end. It can use
            `call(name, *args)`, which calls the program's `name` ("f", "Solution().two_sum") or returns it if it is
            not a function; `proxy(name)`, the same as a function; `load()`, which waits until the program is imported,
            as the first call does; and `CandidateError`, which these raise when the program raises. Arguments and
            results are copies of plain data (`rlif.sandbox.values`).
        limits: replace those of the run.
    """

    source: str
    stdin: str = ""
    tests: str | None = None
    limits: Limits | None = None


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Args:
        status: "ok" (exit code 0; with tests, all passed), "error" (exception, other exit code, failed test),
            "timeout", "memory", "output" (too much of it), "killed" (it ended together with its sandbox), "broken" (two
            sandboxes could not run it).
        stdout: the program's, as UTF-8, at most `output_bytes`.
        stderr: the last few KB, those of the tests included.
        exit_code: exit code of the tests, or of the program if there are none; -n for signal n; None if it was ended.
        seconds: wall clock.
    """

    status: str
    stdout: str
    stderr: str
    exit_code: int | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it ran to its end, and passed its tests if it has any."""
        return self.status == "ok"
