"""Programs that read and print, or that define one function: from tests to trials, by LiveCodeBench's rules.

Tests are rows {input, output, testtype}. With `stdin` the program runs once per test and its output is compared, see
`rlif.tasks.code.programs.same_output`. With `functional` every line of the input is an argument in JSON, the
function, often a method of `Solution`, is called, and a tuple returned counts as a list. Each test has six seconds
of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlif.sandbox.runner import Limits, Program
from rlif.tasks.code.programs import Trial

Test = Mapping[str, str]
LIMITS = Limits(seconds=6, memory_mib=4096)

# The names that LiveCodeBench puts before every program, in its order, as later modules hide names of earlier ones.
STARS = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
PREAMBLE = "\n".join(
    [f"from {module} import *" for module in STARS]
    + [f"import {module}" for module in STARS[:16]]
    + ["sys.setrecursionlimit(50000)\n\n"]
)


def trials_of(code: str, tests: Sequence[Test], function: str | None = None) -> list[Trial]:
    """One trial for each test.

    Args:
        code: of the model.
        function: to call, for functional tests.
    """
    if function is None:
        return [
            Trial(Program(PREAMBLE + code, stdin=test["input"], limits=LIMITS), expected=test["output"])
            for test in tests
        ]
    name = f"Solution().{function}" if "class Solution" in code else function
    return [Trial(Program(PREAMBLE + code, tests=_check(name, test), limits=LIMITS)) for test in tests]


def _check(name: str, test: Test) -> str:
    return "\n".join(
        [
            "import json",
            f"arguments = [json.loads(line) for line in {test['input']!r}.split('\\n')]",
            f"found = call({name!r}, *arguments)",
            "found = list(found) if isinstance(found, tuple) else found",
            f"assert found == json.loads({test['output']!r})",
        ]
    )


def paired(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Test]:
    """Tests from a list of inputs and one of outputs.

    Raises:
        ValueError: the lists differ in length.
    """
    return [{"input": text_of(one), "output": text_of(other)} for one, other in zip(inputs, outputs, strict=True)]


def text_of(value: Any) -> str:
    """An input or output, which some rows have as a list of lines, as text."""
    return value if isinstance(value, str) else "\n".join(map(str, value))
