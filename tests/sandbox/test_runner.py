"""The sandbox: attacks on it, and honest programs in it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import sandbox_attacks
from support.sandbox_attacks import FORGERIES, PATIENT, RESOURCES, Attack

import rlif
from rlif.errors import RlifError
from rlif.sandbox.runner import Limits, Outcome, Program, require_sandbox, run_programs

try:
    require_sandbox()
    MISSING = ""
except RlifError as error:
    MISSING = str(error)
sandboxed = pytest.mark.skipif(bool(MISSING) and "CI" not in os.environ, reason=MISSING)
HERE = Path(rlif.__file__).parents[1]


def run(source: str, stdin: str = "", limits: Limits = PATIENT, **options: object) -> Outcome:
    return run_programs([Program(source, stdin)], limits, **options)[0]


def judged(source: str, tests: str) -> Outcome:
    return run_programs([Program(source, tests=tests)], PATIENT)[0]


def processes(marker: str) -> set[int]:
    """The processes of this machine that have the marker on their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sleeper(number: int) -> tuple[str, str]:
    """A program that becomes a `sleep` which can be found by the second result."""
    marker = f"{number}{os.getpid()}.5"
    return f"import os\nos.execv('/bin/sleep', ['sleep', {marker!r}])", f"sleep\0{marker}"


@sandboxed
def test_no_attack_succeeds():
    assert sandbox_attacks.survivors() == {}


@sandboxed
def test_no_attack_succeeds_on_another_user():
    """Root enters the sandbox in two steps, others in one: here nobody does, with the system's Python."""
    python = "/usr/bin/python3"  # which every user can read
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root, with setpriv, can be someone else")
    if not os.path.exists(python) or subprocess.call([python, "-c", "import tomllib"], stderr=subprocess.DEVNULL):
        pytest.skip(f"{python} is not there or not 3.11")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rlif").mkdir()
        for path in (HERE / "rlif").glob("*.py"):
            if path.name.startswith(("__init__", "errors", "sandbox")):
                shutil.copy(path, Path(folder) / "rlif")
        shutil.copy(sandbox_attacks.__file__, folder)
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
        command = [*nobody, f"PYTHONPATH={folder}", python, "-B", f"{folder}/sandbox_attacks.py"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_the_attacks_are_real():
    """Without a sandbox they succeed; these are those that do no harm."""
    with sandbox_attacks.secrets() as attacks:
        for name in ("reads the caller's environment", "reads files of the host"):
            outcome = run_programs([attacks[name].program], unsafe_local=True)[0]
            assert outcome.status == "ok"
            assert "PWNED" in outcome.stdout


@sandboxed
def test_the_innocent_keep_their_verdicts_among_two_hundred():
    hanging = ("endless loop", "endless output", "fork bomb", "large processes")
    hostile = [FORGERIES[name] for name in FORGERIES if "without end" not in name and "never" not in name] + [
        RESOURCES[name] for name in hanging
    ]
    innocent = [
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
    everyone = hostile + innocent
    random.Random(0).shuffle(everyone)
    assert len(everyone) >= 200
    outcomes = run_programs([attack.program for attack in everyone], PATIENT)
    assert [o for attack, o in zip(everyone, outcomes, strict=True) if not attack.held(o)] == []


def says(stdout: str, stdin: str = "", status: str = "ok", code: int | None = 0) -> Callable[[str], Attack]:
    def made(source: str) -> Attack:
        return Attack(
            Program(textwrap.dedent(source), stdin),
            lambda o: (o.status, o.stdout, o.exit_code) == (status, stdout, code),
        )

    return made


def complains(message: str, status: str = "error", code: int = 1) -> Callable[[str], Attack]:
    def made(source: str) -> Attack:
        return Attack(
            Program(source),
            lambda o: (o.status, o.exit_code) == (status, code) and message in o.stderr and "sandbox" not in o.stderr,
        )

    return made


HONEST = {
    "reads a line": says("héllo 😀\n", stdin="héllo 😀\nrest\n")("print(input())"),
    "reads everything": says("6\n", stdin="1 2\n3")("import sys; print(sum(map(int, sys.stdin.read().split())))"),
    "reads descriptor 0": says("ab\n", stdin="ab")("print(open(0).read())"),
    "reads /dev/stdin": says("ab\n", stdin="ab")("print(open('/dev/stdin').read())"),
    "reads bytes": says("2\n", stdin="é")("import sys; print(len(sys.stdin.buffer.read()))"),
    "reads much": says("1000000\n", stdin="x" * 10**6)("print(len(input()))"),
    "reads nothing": complains("EOFError")("input()"),
    "writes /dev/stdout": says("hi")("open('/dev/stdout', 'w').write('hi')"),
    "writes as much as it may": says("x" * 9999 + "\n")("print('x' * 9999)"),
    "keeps line ends": says("a\r\nb")("import sys; sys.stdout.write('a\\r\\nb')"),
    "writes what is no text": says("\ufffd")("import sys; sys.stdout.buffer.write(b'\\xff')"),
    "writes on its deathbed": says("bye", status="error", code=1)("import sys; sys.stdout.write('bye'); 1/0"),
    "exits with a number": says("", status="error", code=3)("exit(3)"),
    "exits with none": says("x\n")("import sys; print('x'); sys.exit()"),
    "exits with words": complains("no way")("import sys; sys.exit('no way')"),
    "exits hard": says("", status="error", code=7)("import os; os._exit(7)"),
    "is killed by itself": says("", status="error", code=-15)("import os; os.kill(os.getpid(), 15)"),
    "aborts": says("", status="error", code=-6)("import os; os.abort()"),
    "raises": complains('File "program.py", line 2, in f\nZeroDivisionError: division by zero')("def f():\n 1/0\nf()"),
    "is no Python": complains("SyntaxError")("def f(:"),
    "holds a null": complains("null bytes")("x = '\0'"),
    "holds half a character": complains("surrogates not allowed")("x = '\ud800'"),
    "recurses without end": complains("RecursionError")("def f(): f()\nf()"),
    "wants too much memory": complains("MemoryError", "memory")("x = [0] * 10**9"),
    "is the main module": says("ok\n")("if __name__ == '__main__': print('ok')"),
    "pickles its classes": says("1\n")("import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A())).x)"),
    "ends in a thread": says("done\n")(
        "import threading, time\nthreading.stack_size(1 << 26)\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('done'))).start()"
    ),
    "ends at exit": says("ab")("import atexit, sys; atexit.register(sys.stdout.write, 'b'); sys.stdout.write('a')"),
    "runs a program": says("hi\n")("import subprocess; subprocess.run(['echo', 'hi'])"),
    "runs processes": says("[1, 4]\n")(
        "import multiprocessing as m\ndef f(x): return x * x\nwith m.Pool(2) as p: print(p.map(f, [1, 2]))"
    ),
    "writes files": says("x\n")(
        "import tempfile\nwith tempfile.TemporaryDirectory() as d:\n"
        " open(d + '/x', 'w').write('x')\n print(open(d + '/x').read())"
    ),
    "uses numpy": says("6\n")("import numpy; print(numpy.array([[1, 2], [1, 2]]).sum())"),
    "says much on stderr": Attack(
        Program("import sys; sys.stderr.write('x' * 10**5 + 'end')"),
        lambda o: o.ok and len(o.stderr) == 4096 and o.stderr.endswith("end"),
    ),
    "has its own limits": Attack(
        Program("import time; time.sleep(100)", limits=Limits(seconds=0.2)),
        lambda o: o.status == "timeout" and o.seconds < PATIENT.seconds,
    ),
}

JUDGED = {
    "passes": ("def f(x): return x", "assert call('f', 1) == 1\nassert proxy('f')('é\\ud800') == 'é\\ud800'", ""),
    "fails": ("def f(x): return x", "assert call('f', 1) == 2", "AssertionError"),
    "keeps its state": (
        "n = 0\ndef f():\n global n\n n += 1\n return n",
        "assert [call('f') for _ in 'abc'] == [1, 2, 3]",
        "",
    ),
    "has values": (
        "A = 7\nclass B:\n c = (1,)",
        "assert call('A') == 7 and call('B.c') == (1,) and call('B.c') != [1]",
        "",
    ),
    "has methods": (
        "class S:\n def __init__(s): s.k = 3\n def m(s, x): return s.k * x",
        "assert call('S().m', 2) == 6",
        "",
    ),
    "raises": (
        "def f(x): raise ValueError('bad')",
        "try: call('f', 1)\nexcept CandidateError as e: seen = e.kind, e.message\nassert seen == ('ValueError', 'bad')",
        "",
    ),
    "raises unexpectedly": ("def f(x): return {}[x]", "call('f', 1)", "CandidateError: KeyError: 1"),
    "raises what cannot be said": (
        "class E(Exception):\n def __str__(self): raise self\ndef f(): raise E",
        "call('f')",
        "CandidateError: E: ",
    ),
    "has no such name": ("def g(): pass", "call('f')", "NameError: name 'f' is not defined"),
    "is no Python": ("def f(:", "pass", "SyntaxError"),
    "fails to load": ("1/0", "pass", "ZeroDivisionError"),
    "ends before": ("import os\ndef f(): os._exit(0)", "call('f')", "ProgramEnded"),
    "gets copies": ("def f(x): x.append(1); return x", "a = []\nassert call('f', a) == [1] and a == []", ""),
    "is no main module": ("if __name__ == '__main__': raise SystemExit", "pass", ""),
    "returns no data": (
        "def f(): yield 1",
        "assert call('f') is not None and call('f') != 1 and 'generator' in repr(call('f'))",
        "",
    ),
    "wants too much memory": ("def f(): return [0] * 10**9", "call('f')", "MemoryError"),
}


@sandboxed
def test_honest_programs():
    outcomes = run_programs([program for program, _ in HONEST.values()], PATIENT)
    assert {name: o for (name, a), o in zip(HONEST.items(), outcomes, strict=True) if not a.held(o)} == {}


@sandboxed
def test_honest_tests():
    outcomes = run_programs([Program(source, tests=tests) for source, tests, _ in JUDGED.values()], PATIENT)
    for (name, (_, _, complaint)), outcome in zip(JUDGED.items(), outcomes, strict=True):
        assert outcome.ok == (not complaint), (name, outcome)
        assert complaint in outcome.stderr, (name, outcome)
    assert outcomes[-1].status == "memory"


@sandboxed
def test_output_beside_tests():
    outcome = judged("def f(x):\n print('seen', x)\n return x", "assert call('f', 1) == 2")
    assert (outcome.status, outcome.stdout, outcome.exit_code) == ("error", "seen 1\n", 1)


@sandboxed
def test_a_broken_sandbox_costs_one_program():
    source, marker = sleeper(61)
    programs = [Program("print(1)"), Program(source), Program("print(3)")]

    def attack() -> None:
        until(lambda: processes(marker))
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
    until(lambda: not processes(marker))


@sandboxed
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_run_is_interrupted(number):
    source, marker = sleeper(70 + number)
    script = (
        f"from rlif.sandbox.runner import *\nrun_programs([Program({source!r})] * 2, Limits(seconds=60), workers=2)"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: len(processes(marker)) == 2)
    process.send_signal(number)
    _, stderr = process.communicate()
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in stderr
        assert not processes(marker)
    until(lambda: not processes(marker))


@sandboxed
def test_an_error_of_the_caller_ends_the_run():
    source, marker = sleeper(62)

    def on_outcome(index: int, outcome: Outcome) -> None:
        until(lambda: processes(marker))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_programs([Program("pass"), Program(source)], Limits(seconds=60), workers=1, on_outcome=on_outcome)
    assert not processes(marker)


@sandboxed
def test_outcomes_come_as_programs_end_and_in_their_order():
    seen = {}
    programs = [Program(f"print({i})", limits=PATIENT) for i in range(10)]
    outcomes = run_programs(programs, workers=3, on_outcome=lambda i, o: seen.update({i: (o, threading.get_ident())}))
    assert [o.stdout for o in outcomes] == [f"{i}\n" for i in range(10)]
    assert seen == {i: (o, threading.get_ident()) for i, o in enumerate(outcomes)}


@sandboxed
def test_strings_hash_alike_in_every_sandbox():
    outcomes = run_programs([Program("print(hash('a'), {'a', 'b', 'c'})")] * 4, PATIENT, workers=2)
    assert len({o.stdout for o in outcomes}) == 1


@sandboxed
def test_from_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(run("print(1)").stdout))
    thread.start()
    thread.join()
    assert found == ["1\n"]


def test_nothing_to_run(monkeypatch):
    assert run_programs([], unsafe_local=True) == []


def test_without_bubblewrap_it_refuses(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in (require_sandbox, lambda: run("print(1)"), lambda: run_programs([])):
        with pytest.raises(RlifError, match="install bubblewrap"):
            attempt()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RlifError, match="on Linux"):
        require_sandbox()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it refuses earlier")
def test_a_sandbox_that_does_not_start_is_no_verdict(monkeypatch, tmp_path):
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    seen = []
    with pytest.raises(RlifError, match="setting up uid map: Permission denied"):
        run_programs([Program("print(1)")], on_outcome=lambda *outcome: seen.append(outcome))
    assert seen == []


def test_unsafe_local_has_the_same_outcomes():
    alike = (
        "reads a line",
        "writes on its deathbed",
        "exits with a number",
        "raises",
        "ends in a thread",
        "has its own limits",
    )
    attacks = [HONEST[name] for name in alike] + [FORGERIES["equals everything"], FORGERIES["sends garbage"]]
    attacks += [RESOURCES[name] for name in ("endless loop", "endless output", "one large process")]
    outcomes = run_programs([attack.program for attack in attacks], PATIENT, unsafe_local=True)
    assert [o for attack, o in zip(attacks, outcomes, strict=True) if not attack.held(o)] == []
    passed = run_programs([Program("def f(x): return x", tests="assert call('f', 1) == 1")], unsafe_local=True)
    assert passed[0].ok


@pytest.mark.parametrize(("name", "value"), [("seconds", 0), ("memory_mib", -1), ("disk_mib", 0)])
def test_limits_are_positive(name, value):
    with pytest.raises(RlifError, match=f"{name} is {value}"):
        Limits(**{name: value})


def test_workers_are_positive():
    with pytest.raises(RlifError, match="at least 1"):
        run_programs([Program("")], workers=0, unsafe_local=True)
