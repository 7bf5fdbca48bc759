"""What an attack on the sandbox is, and the kinds of them; needs no pytest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from rlif.sandbox.runner import Limits, Outcome, Program

QUICK = Limits(seconds=0.5, memory_mib=256, processes=16, output_bytes=10_000, disk_mib=8)
PATIENT = replace(QUICK, seconds=30.0)  # for programs that end by themselves, also on a busy machine
TWO = "assert call('f', 2) == 4"


class Attack(NamedTuple):
    """A program, and what must be true of its outcome."""

    program: Program
    held: Callable[[Outcome], bool]


def ends(*statuses: str) -> Callable[[Outcome], bool]:
    return lambda outcome: outcome.status in statuses and "PWNED" not in outcome.stdout + outcome.stderr


def silent(outcome: Outcome) -> bool:
    """Whether the program ran to its end and nothing that it tried worked."""
    return outcome.status == "ok" and outcome.stdout == "done\n"


def tries(source: str) -> Attack:
    return Attack(Program(TRYING + source + "\nprint('done')", limits=PATIENT), silent)


def forges(source: str, tests: str = TWO) -> Attack:
    return Attack(Program(source, tests=tests, limits=QUICK), ends("error", "timeout", "killed", "memory"))


TRYING = """
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(label, action):
    try:
        found = action()
    except (OSError, ValueError, PermissionError):
        return
    if found is not False:
        print("PWNED", label, repr(found)[:200])
def call(label, *arguments):
    attempt(label, lambda: libc.syscall(*arguments) >= 0)
"""


def strains(*statuses: str, source: str, limits: Limits = PATIENT) -> Attack:
    return Attack(Program(source, limits=limits), ends(*statuses))
