"""A run that ends early leaves no processes: after a broken sandbox, an interrupt, an error of the caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import ROOT

from rlif.sandbox.runner import Limits, Outcome, Program, run_programs

pytestmark = pytest.mark.usefixtures("sandbox")


def processes(marker: str) -> set[int]:
    """Finds the processes of this machine with the marker on their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sleeper(number: int) -> tuple[str, str]:
    """Returns a program that becomes a `sleep`, and a marker to find it by."""
    marker = f"{number}{os.getpid()}.5"
    return f"import os\nos.execv('/bin/sleep', ['sleep', {marker!r}])", f"sleep\0{marker}"


def test_a_broken_sandbox_ends_only_one_program():
    source, marker = sleeper(61)
    programs = [Program("print(1)"), Program(source), Program("print(3)")]

    def attack() -> None:
        wait_until(lambda: processes(marker))
        for process in processes("--as-pid-1"):
            parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                os.killpg(process, signal.SIGKILL)

    thread = threading.Thread(target=attack)
    thread.start()
    outcomes = run_programs(programs, Limits(seconds=60), workers=1)
    thread.join()
    assert [o.status for o in outcomes] == ["ok", "killed", "ok"]
    assert [o.stdout for o in outcomes] == ["1\n", "", "3\n"]
    wait_until(lambda: not processes(marker))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_processes(number):
    source, marker = sleeper(70 + number)
    script = (
        "import signal; signal.signal(2, signal.default_int_handler)\n"  # a shell has its background jobs ignore it
        f"from rlif.sandbox.runner import *\nrun_programs([Program({source!r})] * 2, Limits(seconds=60), workers=2)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(processes(marker)) == 2)
    process.send_signal(number)
    _, stderr = process.communicate()
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in stderr
        assert not processes(marker)
    wait_until(lambda: not processes(marker))


def test_an_error_of_the_caller_ends_the_run():
    source, marker = sleeper(62)

    def on_outcome(index: int, outcome: Outcome) -> None:
        wait_until(lambda: processes(marker))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_programs([Program("pass"), Program(source)], Limits(seconds=60), workers=1, on_outcome=on_outcome)
    assert not processes(marker)
