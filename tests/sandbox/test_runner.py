"""Harmless programs have the right outcomes, in their order; impossible requests are refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.attack_kinds import PATIENT, Attack
from support.sandbox_attacks import FORGERIES, RESOURCES

from rlif.errors import RlifError
from rlif.sandbox import filters, jail
from rlif.sandbox.runner import Limits, Outcome, Program, require_sandbox, run_programs

sandboxed = pytest.mark.usefixtures("sandbox")


def run(source: str, stdin: str = "", limits: Limits = PATIENT, **options: object) -> Outcome:
    return run_programs([Program(source, stdin)], limits, **options)[0]


def run_with_tests(source: str, tests: str) -> Outcome:
    return run_programs([Program(source, tests=tests)], PATIENT)[0]


def prints(stdout: str, stdin: str = "", status: str = "ok", code: int | None = 0) -> Callable[[str], Attack]:
    def make(source: str) -> Attack:
        return Attack(
            Program(textwrap.dedent(source), stdin),
            lambda o: (o.status, o.stdout, o.exit_code) == (status, stdout, code),
        )

    return make


def fails_with(message: str, status: str = "error", code: int = 1) -> Callable[[str], Attack]:
    def make(source: str) -> Attack:
        return Attack(
            Program(source),
            lambda o: (o.status, o.exit_code) == (status, code) and message in o.stderr and "sandbox" not in o.stderr,
        )

    return make


HARMLESS = {
    "reads a line": prints("héllo 😀\n", stdin="héllo 😀\nrest\n")("print(input())"),
    "reads everything": prints("6\n", stdin="1 2\n3")("import sys; print(sum(map(int, sys.stdin.read().split())))"),
    "reads descriptor 0": prints("ab\n", stdin="ab")("print(open(0).read())"),
    "reads /dev/stdin": prints("ab\n", stdin="ab")("print(open('/dev/stdin').read())"),
    "reads bytes": prints("2\n", stdin="é")("import sys; print(len(sys.stdin.buffer.read()))"),
    "reads much": prints("1000000\n", stdin="x" * 10**6)("print(len(input()))"),
    "reads nothing": fails_with("EOFError")("input()"),
    "writes /dev/stdout": prints("hi")("open('/dev/stdout', 'w').write('hi')"),
    "writes as much as it may": prints("x" * 9999 + "\n")("print('x' * 9999)"),
    "keeps line ends": prints("a\r\nb")("import sys; sys.stdout.write('a\\r\\nb')"),
    "writes what is not text": prints("\ufffd")("import sys; sys.stdout.buffer.write(b'\\xff')"),
    "writes before an exception": prints("bye", status="error", code=1)("import sys; sys.stdout.write('bye'); 1/0"),
    "exits with a number": prints("", status="error", code=3)("exit(3)"),
    "exits with none": prints("x\n")("import sys; print('x'); sys.exit()"),
    "exits with words": fails_with("no way")("import sys; sys.exit('no way')"),
    "exits hard": prints("", status="error", code=7)("import os; os._exit(7)"),
    "is killed by itself": prints("", status="error", code=-15)("import os; os.kill(os.getpid(), 15)"),
    "aborts": prints("", status="error", code=-6)("import os; os.abort()"),
    "raises": fails_with('program.py", line 2, in f\n    1/0\n')("def f():\n 1/0\nf()"),
    "is not Python": fails_with("SyntaxError")("def f(:"),
    "holds a null": fails_with("null bytes")("x = '\0'"),
    "holds half a character": fails_with("SyntaxError")("x = '\ud800'"),
    "recurses without end": fails_with("RecursionError")("def f(): f()\nf()"),
    "wants too much memory": fails_with("MemoryError", "memory")("x = [0] * 10**9"),
    "is the main module": prints("ok\n")("if __name__ == '__main__': print('ok')"),
    "pickles its classes": prints("1\n")("import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A())).x)"),
    "ends in a thread": prints("done\n")(
        "import threading, time\nthreading.stack_size(1 << 26)\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), print('done'))).start()"
    ),
    "ends at exit": prints("ab")("import atexit, sys; atexit.register(sys.stdout.write, 'b'); sys.stdout.write('a')"),
    "runs a program": prints("hi\n")("import subprocess; subprocess.run(['echo', 'hi'])"),
    "runs processes": prints("[1, 4]\n")(
        "import multiprocessing as m\ndef f(x): return x * x\nwith m.Pool(2) as p: print(p.map(f, [1, 2]))"
    ),
    "writes files": prints("x\n")(
        "import tempfile\nwith tempfile.TemporaryDirectory() as d:\n"
        " open(d + '/x', 'w').write('x')\n print(open(d + '/x').read())"
    ),
    "uses numpy": prints("6\n")("import numpy; print(numpy.array([[1, 2], [1, 2]]).sum())"),
    "writes much to stderr": Attack(
        Program("import sys; sys.stderr.write('x' * 10**5 + 'end')"),
        lambda o: o.ok and len(o.stderr) == 4096 and o.stderr.endswith("end"),
    ),
    "has its own limits": Attack(
        Program("import time; time.sleep(100)", limits=Limits(seconds=0.2)),
        lambda o: o.status == "timeout" and o.seconds < PATIENT.seconds,
    ),
}

TESTED = {
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
    "raises what has no message": (
        "class E(Exception):\n def __str__(self): raise self\ndef f(): raise E",
        "call('f')",
        "CandidateError: E: ",
    ),
    "has no such name": ("def g(): pass", "call('f')", "NameError: name 'f' is not defined"),
    "is not Python": ("def f(:", "pass", "SyntaxError"),
    "fails to load": ("1/0", "pass", "ZeroDivisionError"),
    "ends before": ("import os\ndef f(): os._exit(0)", "call('f')", "ProgramEnded"),
    "gets copies": ("def f(x): x.append(1); return x", "a = []\nassert call('f', a) == [1] and a == []", ""),
    "is not the main module": ("if __name__ == '__main__': raise SystemExit", "pass", ""),
    "returns no data": (
        "def f(): yield 1",
        "assert call('f') is not None and call('f') != 1 and 'generator' in repr(call('f'))",
        "",
    ),
    "wants too much memory": ("def f(): return [0] * 10**9", "call('f')", "MemoryError"),
}


@sandboxed
def test_harmless_programs():
    outcomes = run_programs([program for program, _ in HARMLESS.values()], PATIENT)
    assert {name: o for (name, a), o in zip(HARMLESS.items(), outcomes, strict=True) if not a.held(o)} == {}


@sandboxed
def test_programs_with_tests():
    outcomes = run_programs([Program(source, tests=tests) for source, tests, _ in TESTED.values()], PATIENT)
    for (name, (_, _, message)), outcome in zip(TESTED.items(), outcomes, strict=True):
        assert outcome.ok == (not message), (name, outcome)
        assert message in outcome.stderr, (name, outcome)
    assert outcomes[-1].status == "memory"


@sandboxed
def test_output_of_a_program_with_tests():
    outcome = run_with_tests("def f(x):\n print('seen', x)\n return x", "assert call('f', 1) == 2")
    assert (outcome.status, outcome.stdout, outcome.exit_code) == ("error", "seen 1\n", 1)


@sandboxed
def test_outcomes_are_reported_as_programs_end_and_returned_in_order():
    seen = {}
    programs = [Program(f"print({i})", limits=PATIENT) for i in range(10)]
    outcomes = run_programs(programs, workers=3, on_outcome=lambda i, o: seen.update({i: (o, threading.get_ident())}))
    assert [o.stdout for o in outcomes] == [f"{i}\n" for i in range(10)]
    assert seen == {i: (o, threading.get_ident()) for i, o in enumerate(outcomes)}


@sandboxed
def test_strings_have_the_same_hash_in_every_sandbox():
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


def test_without_bubblewrap_nothing_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in (require_sandbox, lambda: run("print(1)"), lambda: run_programs([])):
        with pytest.raises(RlifError, match="install bubblewrap"):
            attempt()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RlifError, match="on Linux"):
        require_sandbox()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it refuses earlier")
@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("setting up uid map: Permission denied", "user namespaces"),
        ("Unknown option --perms", "bubblewrap 0.5 or newer"),
        ("Can.t mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined"),
        ("seccomp: Invalid argument", "CONFIG_SECCOMP_FILTER"),
    ],
)
def test_a_sandbox_that_does_not_start_gives_no_outcome(monkeypatch, tmp_path, reason, remedy):
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f"#!/bin/sh\necho 'bwrap: {reason}' >&2\nexit 1\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    seen = []
    with pytest.raises(RlifError, match=f"{reason}.*{remedy}"):
        run_programs([Program("print(1)")], on_outcome=lambda *outcome: seen.append(outcome))
    assert seen == []


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ("echo 0 > /proc/sys/user/max_user_namespaces", "allow unprivileged user namespaces"),
        ("mount -t tmpfs none /proc/irq", "show all of /proc"),  # as containers do
    ],
)
def test_a_container_that_allows_no_sandbox(change, remedy):
    program = "from rlif.sandbox.runner import require_sandbox\nrequire_sandbox()"
    enter = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.call([*enter, change], stderr=subprocess.DEVNULL):
        pytest.skip("no such container can be made here; run it with util-linux")
    done = subprocess.run([*enter, f'{change}; exec "$0" "$@"', sys.executable, "-c", program], capture_output=True)
    assert remedy in done.stderr.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it refuses earlier")
def test_a_machine_whose_system_calls_are_not_known(sandbox, monkeypatch):
    monkeypatch.setattr(filters, "_MACHINES", {"other": (0, 0)})
    filters.call_filter.cache_clear()
    with pytest.raises(RlifError, match=r"jails are made on other .64 bits., and this is .*RLIF_SANDBOX"):
        require_sandbox()


def test_the_numbers_of_system_calls():
    """Each is written once, and is the kernel's where its header is here."""
    headers = {0: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1: "/usr/include/asm-generic/unistd.h"}
    entries = [entry.split() for line in filters._ALLOWED for entry in line.split(", ")]
    for column, header in headers.items():
        numbers = {name: row[column] for name, *row in entries if row[column] != "-"}
        numbers |= {name: str(row[column]) for name, row in filters.CHECKED.items()}
        assert len(set(numbers.values())) == len(numbers)
        if os.path.exists(header):
            text = Path(header).read_text()
            known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
            known["newfstatat"] = known.get("newfstatat", known.get("fstatat", ""))
            assert {name: n for name, n in numbers.items() if known.get(name, n) != n} == {}


def test_unsafe_local_has_the_same_outcomes():
    names = (
        "reads a line",
        "writes before an exception",
        "exits with a number",
        "raises",
        "ends in a thread",
        "has its own limits",
    )
    attacks = [HARMLESS[name] for name in names] + [FORGERIES["equals everything"], FORGERIES["sends garbage"]]
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_just_ends_does_not_count_as_large(monkeypatch):
    """Nobody can list the descriptors of a process that the kernel is about to remove, or that begins a program."""
    listdir = os.listdir

    def refuses(path: str) -> list[str]:
        if path.endswith("/fd"):
            raise PermissionError
        return listdir(path)

    with subprocess.Popen(["sleep", "9"]) as process:
        known = jail._memory_of(f"/proc/{process.pid}")
        monkeypatch.setattr(os, "listdir", refuses)
        assert 0 < known <= jail._memory_of(f"/proc/{process.pid}") < known + (64 << 20)
        process.kill()
