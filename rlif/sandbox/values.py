"""Sends values between an untrusted program and the tests that judge it: as plain data, in JSON with tags.

    None, bool, int, float, str, list                    unchanged (integers beyond 64 bits in hexadecimal)
    tuple, set, frozenset, dict, deque, range            tagged; any key that a dict can have; a deque keeps its maxlen
    bytes, bytearray, complex                            tagged
    subclasses (Counter, namedtuple, IntEnum, ...)       as the plain type underneath
    numpy scalars                                        as what .item() returns
    anything else (arrays, iterators, own classes ...)   as `Opaque`: holds its type's name, and equals nothing

So no method of the program, such as an overridden `__eq__`, ever runs where the tests run. The receiver gets a copy: a
function that changes its argument in place changes the copy. The reader trusts nothing: a frame has at most MAX_FRAME
bytes, values nest at most MAX_DEPTH deep, and anything that cannot be parsed is `InvalidData`. Standard library only,
because this runs inside the sandbox.
"""

import json
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

MAX_FRAME = 16 << 20
MAX_DEPTH = 100
_HEADER = 8  # bytes that hold the length of the frame


class InvalidData(Exception):
    """Reports that the data received is not a frame, or not a value."""


class Opaque:
    """Replaces an object that cannot be sent. It is not None and equals nothing, itself included."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<a {self.kind} that cannot be sent>"


def encode(value: Any, depth: int = 0) -> Any:
    """Converts a value to what `json.dumps` accepts.

    Raises:
        ValueError: nested deeper than MAX_DEPTH (as cycles are).
    """
    if value is None or value is True or value is False or isinstance(value, float):
        return float(value) if isinstance(value, float) else value
    if depth > MAX_DEPTH:
        raise ValueError(f"a value to send may nest {MAX_DEPTH} deep; this one is deeper")
    if isinstance(value, int):
        number = int(value)
        return number if -(1 << 63) <= number < 1 << 63 else {"int": hex(number)}
    if isinstance(value, str):
        text = str.__str__(value)
        # JSON would join a pair of lone surrogates into one character.
        lone = any("\ud800" <= c <= "\udfff" for c in text) if not text.isascii() else False
        return {"str": text.encode("utf-32-le", "surrogatepass").hex()} if lone else text
    for kind, tag in _SEQUENCES.items():
        if isinstance(value, kind):
            items = [encode(item, depth + 1) for item in kind.__iter__(value)]
            return items if tag == "list" else {tag: items}
    if isinstance(value, dict):
        return {"dict": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in dict.items(value)]}
    return _encode_rare(value, depth)


def _encode_rare(value: Any, depth: int) -> Any:
    if isinstance(value, deque):
        return {"deque": [value.maxlen, [encode(item, depth + 1) for item in value]]}
    if isinstance(value, range):
        return {"range": [encode(edge) for edge in (value.start, value.stop, value.step)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        item = value.item()
        if type(item) is not type(value):
            return encode(item, depth + 1)
    return {"opaque": type(value).__name__[:100]}


def decode(data: Any, depth: int = 0) -> Any:
    """Restores the value that `encode` converted.

    Raises:
        InvalidData: `encode` does not produce such data, or it nests deeper than MAX_DEPTH.
    """
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if depth > MAX_DEPTH + 2:
        raise InvalidData("nested too deeply")
    if isinstance(data, list):
        return [decode(item, depth + 1) for item in data]
    try:
        ((tag, body),) = data.items()
        return _DECODERS[tag](body, depth + 1)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InvalidData(f"not a valid value: {type(error).__name__}") from None


def _items(body: Any, depth: int) -> list[Any]:
    return [decode(item, depth) for item in _is(list, body)]


def _is(kind: type, body: Any) -> Any:
    if type(body) is not kind:
        raise TypeError
    return body


def _decode_deque(body: Any, depth: int) -> deque[Any]:
    maxlen, items = body
    return deque(_items(items, depth), None if maxlen is None else _is(int, maxlen))


def _decode_complex(body: Any, _: int) -> complex:
    real, imaginary = body
    return complex(_is(float, real), _is(float, imaginary))


_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_DECODERS: dict[str, Callable[[Any, int], Any]] = {
    "int": lambda body, _: int(_is(str, body), 16),
    "str": lambda body, _: bytes.fromhex(body).decode("utf-32-le", "surrogatepass"),
    "tuple": lambda body, depth: tuple(_items(body, depth)),
    "set": lambda body, depth: set(_items(body, depth)),
    "frozenset": lambda body, depth: frozenset(_items(body, depth)),
    "dict": lambda body, depth: {decode(key, depth): decode(item, depth) for key, item in _is(list, body)},
    "deque": _decode_deque,
    "range": lambda body, depth: range(*_items(body, depth)),
    "bytes": lambda body, _: bytes.fromhex(body),
    "bytearray": lambda body, _: bytearray.fromhex(body),
    "complex": _decode_complex,
    "opaque": lambda body, _: Opaque(_is(str, body)[:100]),
}


def send(pipe: socket.socket, message: list[Any]) -> None:
    """Sends one frame: a list whose members are encoded one by one.

    Raises:
        ValueError: it is too long or too deep.
    """
    data = json.dumps([encode(part) for part in message]).encode()
    if len(data) > MAX_FRAME:
        raise ValueError(f"a value to send may take {MAX_FRAME} bytes; this one takes {len(data)}")
    pipe.sendall(len(data).to_bytes(_HEADER, "big") + data)


def receive(pipe: socket.socket) -> list[Any]:
    """Receives the next frame.

    Raises:
        EOFError: the other side has closed the pipe.
        InvalidData: it sent something else.
    """
    length = int.from_bytes(_exactly(pipe, _HEADER), "big")
    if length > MAX_FRAME:
        raise InvalidData("the frame is too long")
    data = _exactly(pipe, length)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidData("the frame is not JSON") from None
    if not isinstance(message, list):
        raise InvalidData("the frame is not a list")
    return [decode(part) for part in message]


def _exactly(pipe: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            chunk = pipe.recv(min(count - len(data), 1 << 20))
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
