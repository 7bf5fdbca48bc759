"""Applies EvalPlus' rule of equality: a function is right if it returns what the reference returns, on every input.

Source: github.com/evalplus/evalplus, for HumanEval+ and MBPP+ (arXiv 2305.01210). This file is sent into the sandbox as
it is. There it calls the reference itself and the model's function through a pipe, so it imports nothing of ours.

Inputs of MBPP+ are JSON, which has no tuples, sets and complex numbers: `restore` restores them. `agree` handles
functions with several right outputs: eight return their elements in any order, three return a match or None, and two
have tests that contradict their text. Floats agree within 1e-7 of their size and `atol`, 1e-6 if there is none. A call
may take four times as long as the reference, and at least a second; importing the program may take LOADING. Inputs to
which the reference returns more than ITEMS values are left out; MBPP+ has such inputs in two problems, 255 and 630.

The verdicts published with MBPP+ 0.1.0 accept one order only. They compare with outputs that another process stored,
in which a set of texts has another order: a function that returns such a set as a list is wrong there, the reference
included. `stored` does the same.
"""

import copy
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

FACTOR, SECONDS = 4.0, 1.0  # of the reference's time, and at least
LOADING = 10.0  # seconds; a busy machine may need some to import numpy
ITEMS = 200_000
TRANSPORT = 1e-4  # seconds more for each value that a call returns, as those come through a pipe
RELATIVE = 1e-7
ABSOLUTE = 1e-6  # where a problem names no tolerance and its outputs are floats
ANY_ORDER = {
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum", "intersection_array",
    "find_dissimilar", "Diff",
}  # fmt: skip
MATCH_OR_NONE = {"check_str", "text_match_three", "text_starta_endb"}
TUPLES = {
    2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809,
}  # fmt: skip


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


RESTORATIONS: list[tuple[set[int], Callable[[list[Any]], list[Any]]]] = [
    (TUPLES, lambda args: [tuple(arg) for arg in args]),
    (
        {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780},
        lambda args: [list(map(tuple, arg)) for arg in args],
    ),
    ({259, 401, 445}, lambda args: [tuple(map(tuple, arg)) for arg in args]),
    ({75, 413, 444, 753}, lambda args: [list(map(tuple, args[0])), *args[1:]]),
    ({250, 307, 405, 446, 617, 720, 763, 808}, lambda args: [tuple(args[0]), *args[1:]]),
    ({106, 750}, lambda args: [args[0], tuple(args[1])]),
    ({580, 615, 791}, lambda args: list(_tuples(args))),
    ({115}, lambda args: [[set(item) if isinstance(item, list) and item else {} for item in args[0]]]),
    ({124}, lambda args: [float(args[0]), complex(args[1])]),
    ({252}, lambda args: [complex(args[0])]),
    ({278}, lambda args: [tuple(tuple(item) if isinstance(item, list) else item for item in args[0])]),
    ({722}, lambda args: [{key: tuple(value) for key, value in args[0].items()}, *args[1:]]),
]


def restore(number: int | None, args: list[Any]) -> list[Any]:
    """Restores the types that JSON removed from the arguments of one call; `number` is that of MBPP's problem."""
    return next((convert(args) for numbers, convert in RESTORATIONS if number in numbers), args)


def agree(name: str, args: list[Any], out: Any, expected: Any, atol: float, stored: bool = False) -> bool:
    """Checks whether the function of that name may return `out` if the reference returns `expected`."""
    if name == "are_equivalent" or (name == "sum_div" and out == 0):
        return True
    if name in ANY_ORDER and not stored:
        return set(out) == set(expected)
    if name in MATCH_OR_NONE:
        found = out if isinstance(out, bool) else out is not None
        return found == (expected is not None)
    if name == "find_zero":
        return abs(sum(c * math.pow(out, power) for power, c in enumerate(args[0]))) <= atol
    if out == expected:
        return True
    items = expected if isinstance(expected, list | tuple) else [expected]
    if not atol and all(isinstance(item, float) for item in items):
        atol = ABSOLUTE
    return bool(atol) and close(out, expected, atol)


def close(out: Any, expected: Any, atol: float) -> bool:
    """Checks whether two numbers, or two nested lists of the same shape, agree within the tolerances."""
    if isinstance(expected, list | tuple):
        same_shape = isinstance(out, list | tuple) and len(out) == len(expected)
        return same_shape and all(close(one, other, atol) for one, other in zip(out, expected, strict=True))
    if not (isinstance(out, int | float | complex) and isinstance(expected, int | float | complex)):
        return False
    both_nan = out != out and expected != expected
    return both_nan or out == expected or abs(out - expected) <= atol + RELATIVE * abs(expected)


def judge(spec: Mapping[str, Any], call: Callable[..., Any]) -> None:
    """Calls both functions on every input.

    Args:
        spec: `name` of the function, source of the `reference`, `inputs` from JSON, `number` or None, `atol`, `stored`.

    Raises:
        AssertionError: the results differ.
        TimeoutError: a call took too long.
    """
    name, stored = spec["name"], spec["stored"] and spec["name"] in ANY_ORDER
    outputs = _stored_outputs(spec) if stored else []
    reference = _defined(spec)
    for number, raw in enumerate(spec["inputs"]):
        args = restore(spec["number"], raw)
        started = time.perf_counter()
        expected = outputs[number] if stored else reference(*copy.deepcopy(args))
        took = time.perf_counter() - started
        items = _items(expected)
        if items > ITEMS:
            continue
        out = in_time(max(SECONDS, FACTOR * took) + TRANSPORT * items, call, name, *args)
        assert agree(name, args, out, expected, spec["atol"], spec["stored"]), f"{args!r:.200}"


def in_time(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function, which the signal's handler ends when it takes longer."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(*args)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def too_slow(*_: Any) -> None:
    """Ends a call that takes too long."""
    raise TimeoutError


def _defined(spec: Mapping[str, Any]) -> Callable[..., Any]:
    space: dict[str, Any] = {}
    exec(spec["reference"], space)
    return space[spec["name"]]


def _items(value: Any) -> int:
    """Counts the values nested in one, until there are more than ITEMS."""
    count, remaining = 1, [value]
    while remaining:
        part = remaining.pop()
        if isinstance(part, dict | list | tuple | set | frozenset):
            count += len(part)
            if count > ITEMS:
                break
            remaining.extend(part.values() if isinstance(part, dict) else part)
    return count


def _stored_outputs(spec: Mapping[str, Any]) -> list[Any]:
    """Computes the reference's outputs in a process with another hash seed."""
    source = f"{spec['source']}\nspec = json.load(sys.stdin)\ndefined = _defined(spec)\n"
    source += "outputs = [defined(*restore(spec['number'], raw)) for raw in spec['inputs']]\n"
    source += "sys.stdout.buffer.write(pickle.dumps(outputs))\n"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    part = {key: spec[key] for key in ("name", "reference", "inputs", "number")}
    child = [sys.executable, "-c", source]
    ended = subprocess.run(child, input=json.dumps(part).encode(), env=environment, capture_output=True, check=True)
    return pickle.loads(ended.stdout)
