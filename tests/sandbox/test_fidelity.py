"""A program runs in the sandbox as `python program.py` runs it: the same verdict, output, exit code and exception.

Both are run and compared: every day a sample of the programs, in a sweep all of them, the golds of HumanEval and MBPP
with their tests, and programs that a model wrote for contests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from support.ordinary_programs import ordinary_programs

from rlif.files.tables import read_rows
from rlif.sandbox.bubblewrap import ENVIRONMENT
from rlif.sandbox.runner import Limits, Program, run_programs
from rlif.tasks import find_task
from rlif.tasks.code.humaneval import completed

pytestmark = pytest.mark.usefixtures("sandbox")
PATIENT = Limits(seconds=60)
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
VARIABLE = {  # what differs between two places or two moments
    r"\b0x[0-9a-f]{6,}": "0x",
    r"[\w./-]*/lib/python3": "lib/python3",
    r"\b(Process|PID|pid)[ =]\d+": r"\1",
    r"Thread [^\s(]*\d{6,}|<_MainThread\(MainThread, started \d+": "thread",
}
Result = tuple[int | None, str, str]
"""Exit code, output, end of the errors."""


def plain(source: str, stdin: str) -> Result:
    """Runs `python program.py` outside, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as file:
        Path(folder, "program.py").write_bytes(source.encode("utf-8", "surrogatepass"))
        file.write(stdin.encode("utf-8", "surrogatepass"))
        file.seek(0)
        environment = {**ENVIRONMENT, "HOME": folder, "TMPDIR": folder, "PWD": folder}
        environment["PYTHONPATH"] = str(Path(numpy.__file__).parents[1])
        # A shell's background job ignores SIGINT, and so would the program.
        command = ["env", "--default-signal=INT", str(PYTHON), "program.py"]
        done = subprocess.run(command, cwd=folder, env=environment, stdin=file, capture_output=True, timeout=60)
        output, errors = (part.decode(errors="replace").replace(folder, "/tmp") for part in (done.stdout, done.stderr))
    return done.returncode, alike(output), alike(errors)[-1500:]


def sandboxed(sources: Mapping[str, tuple[str, str]]) -> dict[str, Result]:
    programs = [Program(source, stdin) for source, stdin in sources.values()]
    outcomes = dict(zip(sources, run_programs(programs, PATIENT), strict=True))
    wrong = [name for name, o in outcomes.items() if (o.status == "ok") != (o.exit_code == 0)]
    assert not wrong, wrong
    return {name: (o.exit_code, alike(o.stdout), alike(o.stderr)[-1500:]) for name, o in outcomes.items()}


def alike(text: str) -> str:
    for pattern, replacement in VARIABLE.items():
        text = re.sub(pattern, replacement, text)
    return text


def differences(sources: Mapping[str, tuple[str, str]]) -> dict[str, tuple[Result, Result]]:
    """Returns what came out under plain Python and in the sandbox, for programs for which that is different."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        expected = dict(zip(sources, pool.map(lambda pair: plain(*pair), sources.values()), strict=True))
    found = sandboxed(sources)
    return {name: (expected[name], found[name]) for name in sources if expected[name] != found[name]}


def test_a_sample_of_ordinary_programs():
    programs = ordinary_programs()
    chosen = [name for i, name in enumerate(programs) if i % 9 == 0]
    assert len(programs) > 300
    assert differences({name: programs[name] for name in chosen}) == {}


CASES = {  # program, its tests, a part of stderr
    "annotations are evaluated": ("def f(x: Undefined): return x + 1", "assert call('f', 2) == 3", "NameError"),
    "so is a List": ("def f(x: List[int]): return x + 1", "assert call('f', 2) == 3", "NameError"),
    "a builtin's name is a builtin's": (
        "class A(Exception): pass\nA.__name__ = 'MemoryError'\ndef f(): raise A('x')",
        "call('f')",
        "CandidateError: program.MemoryError: x",
    ),
    "a large array": ("import numpy\ndef f(): numpy.zeros(10**15)", "call('f')", "CandidateError: MemoryError: Unable"),
    "its source": (
        "import inspect\ndef g(): pass\ndef f(): return inspect.getsource(g), __file__, __name__",
        "assert call('f') == ('def g(): pass\\n', '/tmp/program.py', 'program')",
        "",
    ),
    "processes by spawn": (
        "import multiprocessing as m\ndef g(x): return x * x\ndef f():\n"
        " with m.get_context('spawn').Pool(2) as p: return p.map(g, [1, 2])",
        "assert call('f') == [1, 4]",
        "",
    ),
    "modules of its own folder": (
        "open('mine.py', 'w').write('x = 3')\nimport mine\ndef f(): return mine.x",
        "assert call('f') == 3",
        "",
    ),
    "waits when told to": ("x = 1", "load(), load()\nassert call('x') == 1", ""),
    "fails when told to wait": (
        "1 / 0",
        "try: load()\nexcept CandidateError as e: assert e.kind == 'ZeroDivisionError'\nelse: raise SystemError",
        "",
    ),
}


def test_programs_that_are_called():
    outcomes = run_programs([Program(source, tests=tests) for source, tests, _ in CASES.values()], PATIENT)
    for (name, (_, _, message)), outcome in zip(CASES.items(), outcomes, strict=True):
        assert outcome.ok == (not message) and message in outcome.stderr, (name, outcome)
    assert [o.status for o in outcomes[2:4]] == ["error", "memory"]


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("x = [0] * 10**12", "memory"),
        ("import numpy\nnumpy.zeros(10**15)", "memory"),
        ("raise MemoryError('x')", "memory"),
        ("class A(Exception): pass\nA.__name__ = A.__qualname__ = 'MemoryError'\nraise A('x')", "error"),
        ("import sys\nsys.stderr.write('MemoryError')\nsys.exit(1)", "error"),
        ("try: raise MemoryError\nexcept MemoryError: raise KeyError", "error"),
        ("import os, sys\nif os.fork() == 0: raise MemoryError\nos.wait()\nsys.exit(1)", "error"),
        ("try: raise MemoryError\nexcept MemoryError: print('small')", "ok"),
    ],
)
def test_memory_is_known_by_the_class_of_the_exception(source, status):
    assert run_programs([Program(source)], PATIENT)[0].status == status


def test_a_program_larger_than_its_disk_is_wrong():
    (outcome,) = run_programs([Program("x = 1\n" * 400_000, limits=replace(PATIENT, disk_mib=1))])
    assert outcome.status == "error" and "can't open file" in outcome.stderr


@pytest.mark.sweep
def test_all_ordinary_programs(record_property: Callable[[str, object], None]):
    programs = ordinary_programs()
    record_property("cases", len(programs))
    assert differences(programs) == {}


@pytest.mark.sweep
def test_programs_of_benchmarks(data_folder: Path, record_property: Callable[[str, object], None]):
    """Each HumanEval gold as one program with its tests, each of MBPP too; contest programs with a public test."""
    programs = {}
    for problem in find_task("humaneval").load("test"):
        data = problem.data
        source = completed(data["prompt"], data["name"], problem.gold or "")
        programs[problem.id] = f"{source}\n{data['test']}\ncheck({data['name']})\nprint('passed')\n", ""
    mbpp = find_task("mbpp")
    for problem in [problem for split in ("train", "validation", "test") for problem in mbpp.load(split)]:
        parts = [problem.gold or "", problem.data["setup"], *problem.data["tests"], "print('passed')"]
        programs[problem.id] = "\n".join(parts), ""
    tests = {p.id.rpartition("/")[2]: p for path in sorted((data_folder / "livecodebench").glob("*.jsonl*"))
             for p in find_task("livecodebench").load("v6", source=str(path))}  # fmt: skip
    for row in read_rows(str(data_folder / "checks/lcb_O1-Mini.jsonl.gz"), "test"):
        problem = tests.get(str(row["question_id"]))
        if problem and problem.data["function"] is None:
            programs[problem.id] = row["code"], problem.data["tests"][0]["input"]
    record_property("cases", len(programs))
    assert len(programs) > 1100
    assert differences(programs) == {}
