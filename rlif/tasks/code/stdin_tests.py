"""Turns tests into trials, for programs that read and print or define one function, by LiveCodeBench's rules.

Tests are rows {input, output, testtype}. With `stdin` the program runs once per test and its output is compared by
`rlif.tasks.code.programs.same_output`. With `functional` every line of the input is an argument in JSON for the
function, often a method of `Solution`; a returned tuple counts as a list. Each test may take six seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlif.sandbox.runner import Limits, Program
from rlif.tasks.code.programs import Trial

Test = Mapping[str, str]
LIMITS = Limits(seconds=6, memory_mib=4096)

# LiveCodeBench's imports before every program, in its order, because later modules hide names of earlier ones.
MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
PREAMBLE = "\n".join(
    [f"from {module} import *" for module in MODULES]
    + [f"import {module}" for module in MODULES[:16]]
    + ["sys.setrecursionlimit(50000)\n\n"]
)


def trials_of(code: str, tests: Sequence[Test], function: str | None = None) -> list[Trial]:
    """Makes one trial for each test."""
    code = PREAMBLE + code
    if function is None:
        return [Trial(Program(code, stdin=test["input"], limits=LIMITS), expected=test["output"]) for test in tests]
    name = f"Solution().{function}" if "class Solution" in code else function
    return [Trial(Program(code, tests=_check(name, test), limits=LIMITS)) for test in tests]


def _check(name: str, test: Test) -> str:
    return f"""import json
arguments = [json.loads(line) for line in {test["input"]!r}.split("\\n")]
found = call({name!r}, *arguments)
found = list(found) if isinstance(found, tuple) else found
assert found == json.loads({test["output"]!r})"""


def paired(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Test]:
    """Makes tests from a list of inputs and a list of outputs of the same length."""
    return [{"input": text_of(one), "output": text_of(other)} for one, other in zip(inputs, outputs, strict=True)]


def text_of(value: Any) -> str:
    """Returns an input or output as text; some rows have a list of lines."""
    return value if isinstance(value, str) else "\n".join(map(str, value))
