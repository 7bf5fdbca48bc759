"""Attacks on the sandbox fail, and do not change the verdicts of other programs."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from support import attack_kinds, kernel_attacks, sandbox_attacks
from support.attack_kinds import PATIENT, Attack
from support.commands import ROOT
from support.sandbox_attacks import FORGERIES, RESOURCES

from rlif.sandbox.runner import Program, run_programs

sandboxed = pytest.mark.usefixtures("sandbox")


@pytest.mark.sweep
@sandboxed
def test_no_attack_succeeds():
    assert [found for found in sandbox_attacks.survivors().values() if found] == []


@pytest.mark.sweep
@sandboxed
def test_no_attack_succeeds_on_another_user():
    """Runs the attacks as user nobody with the system's Python: only root needs two steps to enter the sandbox."""
    python = "/usr/bin/python3"  # which every user can read
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("not root, or no setpriv; run it as root, with util-linux")
    if not os.path.exists(python) or subprocess.call([python, "-c", "import tomllib"], stderr=subprocess.DEVNULL):
        pytest.skip(f"no {python} of 3.11 or newer; apt install python3")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "rlif/sandbox", Path(folder) / "rlif/sandbox")
        for path in (ROOT / "rlif").glob("*.py"):
            shutil.copy(path, Path(folder) / "rlif")
        for module in (sandbox_attacks, kernel_attacks, attack_kinds):
            (Path(folder) / "support").mkdir(exist_ok=True)
            shutil.copy(module.__file__, f"{folder}/support")
        subprocess.check_call(["chmod", "-R", "a+rX", folder])
        nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "env",
            "-i",
            f"PATH={os.environ['PATH']}",
        ]
        command = [*nobody, f"PYTHONPATH={folder}", python, "-B", "-m", "support.sandbox_attacks"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_attacks_succeed_without_a_sandbox():
    """Without a sandbox the attacks succeed; only those that do no harm run here."""
    with sandbox_attacks.secrets() as attacks:
        for name in ("reads the caller's environment", "reads files of the host"):
            outcome = run_programs([attacks[name].program], unsafe_local=True)[0]
            assert outcome.status == "ok"
            assert "PWNED" in outcome.stdout


@pytest.mark.sweep
@sandboxed
def test_other_programs_keep_their_verdicts_beside_attacks():
    hanging = ("endless loop", "endless output", "fork bomb", "large processes")
    hostile = [FORGERIES[name] for name in FORGERIES if "without end" not in name and "never" not in name] + [
        RESOURCES[name] for name in hanging
    ]
    harmless = [
        attack
        for i in range((200 - len(hostile)) // 2 + 1)
        for attack in (
            Attack(
                Program(f"print({i} * int(input()))", "7"), lambda o, i=i: (o.status, o.stdout) == ("ok", f"{7 * i}\n")
            ),
            Attack(
                Program(f"def f(x): return x + {i % 5}", tests="assert call('f', 1) == 3"),
                lambda o, i=i: o.status == ("ok" if i % 5 == 2 else "error") and o.exit_code == int(i % 5 != 2),
            ),
        )
    ]
    programs = hostile + harmless
    random.Random(0).shuffle(programs)
    assert len(programs) >= 200
    outcomes = run_programs([attack.program for attack in programs], PATIENT)
    assert [o for attack, o in zip(programs, outcomes, strict=True) if not attack.held(o)] == []


def sequence(attacks: list[tuple[str, Attack]], **options: int) -> dict[str, str]:
    """Runs attacks with a harmless program after each; returns what came out otherwise than it should."""
    harmless = Attack(Program("print(int(input()) + 1)", "1"), lambda o: (o.status, o.stdout) == ("ok", "2\n"))
    pairs = [pair for name, attack in attacks for pair in ((name, attack), (f"after {name}", harmless))]
    outcomes = run_programs([attack.program for _, attack in pairs], PATIENT, **options)
    return {
        name: str(outcome) for (name, attack), outcome in zip(pairs, outcomes, strict=True) if not attack.held(outcome)
    }


@pytest.mark.sweep
@sandboxed
def test_no_sequence_of_programs_ends_an_evaluation():
    """Each ends itself only, in one sandbox, whatever it does to itself, its children and whoever waits for it."""
    assert sequence([*kernel_attacks.chaos().items()], workers=1) == {}


@sandboxed
@pytest.mark.sweep
def test_attacks_in_every_order():
    every = FORGERIES | RESOURCES | kernel_attacks.SHARED | kernel_attacks.MEMORY | kernel_attacks.chaos()
    for seed in range(5):
        attacks = [*every.items()]
        random.Random(seed).shuffle(attacks)
        assert sequence(attacks, workers=seed % 3 + 1) == {}
