"""Another backend can run the programs; one that breaks costs its own program only."""

from __future__ import annotations

import sys
import threading

import pytest

from rlif.errors import MachineError, RecipeError
from rlif.sandbox import runner
from rlif.sandbox.backend import Bubblewrap, Local, chosen_backend
from rlif.sandbox.host import Sandbox, SandboxBroken
from rlif.sandbox.runner import Limits, Outcome, Program, require_sandbox, run_programs


class Fake:
    """A backend that prints a program's source. Programs whose source is "break" break it, "spend" ends a worker."""

    def __init__(self, failures: tuple[int, ...] = ()) -> None:
        self.failures, self.asked, self.closed, self.seen = failures, 0, 0, []

    def check(self) -> None:
        if self.failures == (-1,):
            raise MachineError("no such service.")

    def start(self, cancelled: threading.Event) -> FakeWorker:
        self.asked += 1
        if self.asked - 1 in self.failures:
            raise MachineError(f"start {self.asked} fails.")
        return FakeWorker(self)


class FakeWorker:
    def __init__(self, backend: Fake) -> None:
        self.backend, self.spent = backend, False

    def run(self, program: Program, limits: Limits) -> Outcome:
        self.backend.seen.append(limits)
        self.spent = program.source in ("break", "spend")
        if program.source == "break":
            raise SandboxBroken("it fell apart")
        return Outcome("ok", program.source, "", 0, 0.0)

    def close(self) -> None:
        self.backend.closed += 1


def test_a_backend_runs_the_programs():
    fake = Fake()
    own = Limits(seconds=1)
    programs = [Program("a"), Program("spend"), Program("c", limits=own)]
    outcomes = run_programs(programs, Limits(seconds=2), workers=1, backend=fake)
    assert [outcome.stdout for outcome in outcomes] == ["a", "spend", "c"]
    assert fake.seen == [Limits(seconds=2), Limits(seconds=2), own]
    assert (fake.asked, fake.closed) == (2, 2)


def test_a_program_that_breaks_its_sandbox_costs_its_own_verdict(caplog):
    """It is tried twice. Any number of them in any order ends nothing."""
    fake = Fake()
    names = ["break"] * 5 + ["a", "break", "b"] + ["break"] * 5
    outcomes = run_programs([Program(name) for name in names], workers=1, backend=fake)
    assert [o.status for o in outcomes] == ["broken" if name == "break" else "ok" for name in names]
    assert "it fell apart" in outcomes[0].stderr
    message = "11 of 13 programs have no verdict and count as failed: the sandbox broke twice: it fell apart"
    assert message in caplog.text
    assert fake.asked == fake.closed


def test_a_sandbox_that_cannot_be_made_at_first_is_an_error():
    with pytest.raises(MachineError, match="start 1 fails"):
        run_programs([Program("a")], backend=Fake(failures=(0,)))
    with pytest.raises(MachineError, match="no such service"):
        run_programs([Program("a")], backend=Fake(failures=(-1,)))


def test_a_sandbox_that_cannot_be_made_again_is_tried_for_a_while(monkeypatch):
    monkeypatch.setattr(runner, "_RESTART_SECONDS", (0.0, 0.0))
    programs = [Program("spend"), Program("b")]
    outcomes = run_programs(programs, workers=1, backend=Fake(failures=(1, 2)))
    assert [o.status for o in outcomes] == ["ok", "ok"]
    with pytest.raises(MachineError, match="start 4 fails"):
        run_programs(programs, workers=1, backend=Fake(failures=(1, 2, 3)))


def test_the_environment_chooses_the_backend(monkeypatch, tmp_path):
    (tmp_path / "my_service.py").write_text(
        "from rlif.sandbox.backend import Local\nclass Service(Local): pass\nclass Other: pass\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("", "bubblewrap"):
        monkeypatch.setenv("RLIF_SANDBOX", name)
        assert isinstance(chosen_backend(), Bubblewrap)
    monkeypatch.setenv("RLIF_SANDBOX", "my_service:Service")
    assert isinstance(chosen_backend(), Local)
    require_sandbox()
    assert run_programs([Program("print(1)")])[0].stdout == "1\n"
    assert str(tmp_path) not in sys.path
    for name, message in (
        ("my_service.Other", "not a backend: it has no method 'check'"),
        ("my_service:None", "name a class"),
        ("no_such_module:A", "No module named 'no_such_module'"),
    ):
        monkeypatch.setenv("RLIF_SANDBOX", name)
        with pytest.raises(RecipeError, match=message):
            run_programs([])


def test_an_option_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("RLIF_SANDBOX", "no_such_module:A")
    assert run_programs([Program("a")], backend=Fake())[0].ok
    assert run_programs([Program("print(1)")], unsafe_local=True)[0].ok


@pytest.mark.usefixtures("sandbox")
def test_a_sandbox_that_dies_with_each_program(monkeypatch):
    """Bubblewrap's own sandboxes: one that breaks again and again ends neither the others nor the run."""
    run = Sandbox.run

    def breaks(self: Sandbox, program: Program, limits: Limits) -> Outcome:
        if program.source == "break":
            self.process.kill()
            self.spent = True
            raise SandboxBroken("killed")
        return run(self, program, limits)

    monkeypatch.setattr(Sandbox, "run", breaks)
    names = ["break", "print(1)"] * 3
    outcomes = run_programs([Program(name) for name in names], workers=2)
    assert [o.status for o in outcomes] == ["broken", "ok"] * 3
