"""Runs both ends of a call, each in its own process: the untrusted program, and the tests that judge it.

    tests   -> program    [name, arguments]
    program -> tests      ["returned", value] or ["raised", type's name, message]; also once when it is loaded

A name may be dotted, and a part that ends in () is called on the way: "f", "Solution().two_sum", "Solution.VALUES".
Values are encoded by `rlif.sandbox.values`. The program can answer what it likes, as any function may, but it cannot
reach the tester, whose exit status is the verdict. Standard library only, because this runs inside the sandbox.
"""

import atexit
import builtins
import contextlib
import ctypes
import importlib
import io
import mmap
import os
import signal
import socket
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from rlif.sandbox.values import InvalidData, receive, send

Note = mmap.mmap | ctypes.Array[ctypes.c_ubyte]  # a byte that processes share

FILE = "program.py"
_BUILTIN = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}
_STREAMS = (  # name, mode and rule for errors, by their descriptors
    ("stdin", "r", "surrogateescape"),
    ("stdout", "w", "surrogateescape"),
    ("stderr", "w", "backslashreplace"),
)
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


def run_tests(source: str, pipe: socket.socket) -> tuple[int, bool]:
    """Runs tests against the program at the other end of the pipe.

    Returns:
        The exit code, 0 if they passed; whether they failed for want of memory, here or in the program.
    """
    loaded = False

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

    def load() -> None:
        nonlocal loaded
        if not loaded:
            loaded = True
            answer()

    def call(name: str, *args: Any) -> Any:
        load()
        try:
            send(pipe, [name, list(args)])
        except OSError:
            raise CandidateError("ProgramEnded", "the program has ended") from None
        return answer()

    def proxy(name: str) -> Callable[..., Any]:
        return lambda *args: call(name, *args)

    namespace = {"__name__": "tests", "call": call, "proxy": proxy, "load": load, "CandidateError": CandidateError}
    try:
        exec(compile(source, "tests.py", "exec", dont_inherit=True), namespace)
        load()
    except BaseException as error:  # tests may fail with any exception, a SystemExit included
        _print(error)
        kind = error.kind if isinstance(error, CandidateError) else _kind(error)
        return 1, kind == "MemoryError"
    return 0, False


def begin_anew(present: set[str]) -> None:
    """Gives this forked process what Python has when it starts.

    That is these modules and no others, an empty main module (the worker's is frozen, so its garbage would not be
    collected at the end), streams on descriptors 0 to 2, and Ctrl-C.
    """
    for name in {*sys.modules} - present:
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        if parent in present:
            delattr(sys.modules[parent], child)
    main = types.ModuleType("__main__")
    vars(main).update(__loader__=sys.modules["__main__"].__loader__, __annotations__={}, __builtins__=builtins)
    sys.modules["__main__"] = main
    for number, (name, mode, errors) in enumerate(_STREAMS):
        buffer: Any = open(number, f"{mode}b", closefd=False)  # noqa: SIM115
        buffer.raw.name = f"<{name}>"
        stream = io.TextIOWrapper(buffer, "utf-8", errors, "\n", line_buffering=number == 2)
        stream.mode = mode  # type: ignore[attr-defined]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv[:] = [FILE]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def keep_forever(value: Any) -> None:
    """Makes Python's end not free a value, which saves the time."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def note_memory_error(note: Note) -> None:
    """Makes Python write a 1 into shared memory when it ends because of a MemoryError that nobody caught."""
    process = os.getpid()

    def look() -> None:
        kind = getattr(sys, "last_type", None)
        if os.getpid() == process and isinstance(kind, type) and issubclass(kind, MemoryError):
            note[0] = 1

    atexit.register(look)


def _print(error: BaseException) -> None:
    """Prints the traceback from the first frame outside this file; only the type if memory does not suffice."""
    try:
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:  # `__str__` is untrusted code, and memory may be used up
        with contextlib.suppress(OSError):  # untrusted code may have made stderr non-blocking, and filled it
            os.write(2, f"{type(error).__name__}\n".encode())


def answer_calls(pipe: socket.socket, folder: str) -> None:
    """Imports the program from the folder and answers calls until the pipe ends."""
    sys.path.insert(0, folder)
    namespace: dict[str, Any] = {}

    def load() -> None:
        nonlocal namespace
        namespace = importlib.import_module(FILE.removesuffix(".py")).__dict__

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
    return ["raised", _kind(error), message[:_LONGEST_MESSAGE]]


def _kind(error: BaseException) -> str:
    """Returns the name of an exception's type; only a builtin one has a builtin name, with MemoryError's subclasses."""
    if isinstance(error, MemoryError):
        return "MemoryError"
    kind = type(error)
    return f"{kind.__module__}.{kind.__name__}" if _BUILTIN.get(kind.__name__, kind) is not kind else kind.__name__


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
