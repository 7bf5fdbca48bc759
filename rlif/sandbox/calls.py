"""Runs both ends of a call, each in its own process: the untrusted program, and the tests that judge it.

    tests   -> program    [name, arguments]
    program -> tests      ["returned", value] or ["raised", type's name, message]; also once when it is loaded

A name may be dotted, and a part that ends in () is called on the way: "f", "Solution().two_sum", "Solution.VALUES".
Values are encoded by `rlif.sandbox.values`. The program can answer what it likes, as any function may, but it cannot
reach the tester, whose exit status is the verdict. Standard library only, because this runs inside the sandbox.
"""

import atexit
import contextlib
import os
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from rlif.sandbox.values import InvalidData, receive, send

_LONGEST_MESSAGE = 2000  # characters of an exception's message


class CandidateError(Exception):
    """Reports what a call into the program raised: the name of the exception's type, and its message.

    The name is `ProgramEnded` when the program has ended, `InvalidData` when it did not send a value.
    """

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def run_tests(source: str, pipe: socket.socket) -> int:
    """Runs tests against the program at the other end of the pipe. Returns the exit code: 0 if they passed."""

    def answer() -> Any:
        try:
            reply = receive(pipe)
        except EOFError:
            raise CandidateError("ProgramEnded", "the program has ended") from None
        except InvalidData as error:
            raise CandidateError("InvalidData", str(error)) from None
        match reply:
            case ["returned", value]:
                return value
            case ["raised", str(kind), str(message)]:
                raise CandidateError(kind, message)
        raise CandidateError("InvalidData", "not a valid reply")

    def call(name: str, *args: Any) -> Any:
        try:
            send(pipe, [name, list(args)])
        except OSError:
            raise CandidateError("ProgramEnded", "the program has ended") from None
        return answer()

    def proxy(name: str) -> Callable[..., Any]:
        return lambda *args: call(name, *args)

    try:
        answer()
        namespace = {"__name__": "tests", "call": call, "proxy": proxy, "CandidateError": CandidateError}
        exec(compile(source, "tests.py", "exec"), namespace)
    except BaseException as error:  # tests may fail with any exception, a SystemExit included
        _print(error)
        return 1
    return 0


def run_program(source: bytes, pipe: socket.socket | None) -> int:
    """Runs a program as `python program.py` would, or imports it as `program` and answers calls if there is a pipe.

    Returns the exit code.
    """
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", newline="\n", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["program.py"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    module = types.ModuleType("program" if pipe else "__main__")
    sys.modules[module.__name__] = module

    def load() -> None:
        exec(compile(source.decode("utf-8", "surrogatepass"), "program.py", "exec"), module.__dict__)

    if pipe:
        _answer_calls(pipe, load, module.__dict__)
        return 0
    code = _exit_code(load)
    if threading := sys.modules.get("threading"):
        code = _exit_code(threading._shutdown) or code  # waits for threads, as the interpreter's own end does
    code = _exit_code(atexit._run_exitfuncs) or code
    return _exit_code(sys.stdout.flush) or code


def _exit_code(step: Callable[[], Any]) -> int:
    try:
        step()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        with contextlib.suppress(Exception):
            print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:  # from untrusted code
        _print(error)
        return 1
    return 0


def _print(error: BaseException) -> None:
    """Prints the traceback from the first frame outside this file; only the type if memory does not suffice."""
    try:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
    except BaseException:  # `__str__` is untrusted code, and memory may be used up
        with contextlib.suppress(OSError):  # untrusted code may have made stderr non-blocking, and filled it
            os.write(2, f"{type(error).__name__}\n".encode())


def _answer_calls(pipe: socket.socket, load: Callable[[], None], namespace: dict[str, Any]) -> None:
    step: Callable[[], Any] = load
    while True:
        try:
            reply = ["returned", step()]
        except BaseException as error:  # from untrusted code
            reply = _raised(error)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        try:
            send(pipe, reply)
        except OSError:
            return
        except BaseException as error:  # it cannot be encoded
            send(pipe, _raised(error))
        try:
            name, args = receive(pipe)
        except EOFError:
            return
        step = partial(_look_up, namespace, name, args)


def _raised(error: BaseException) -> list[Any]:
    try:
        message = str(error)
    except BaseException:  # `__str__` is untrusted code too
        message = ""
    return ["raised", type(error).__name__, message[:_LONGEST_MESSAGE]]


def _look_up(namespace: dict[str, Any], name: str, args: list[Any]) -> Any:
    first, *rest = name.split(".")
    bare = first.removesuffix("()")
    if bare not in namespace:
        raise NameError(f"name {bare!r} is not defined")
    value = namespace[bare]() if first != bare else namespace[bare]
    for part in rest:
        value = getattr(value, part.removesuffix("()"))
        value = value() if part.endswith("()") else value
    return value(*args) if args or callable(value) else value
