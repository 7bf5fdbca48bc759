"""Values are sent between an untrusted program and its tests as plain data."""

from __future__ import annotations

import collections
import enum
import json
import math
import random
import socket
from typing import Any, NamedTuple

import numpy as np
import pytest

from rlif.sandbox.values import MAX_DEPTH, MAX_FRAME, InvalidData, Opaque, decode, encode, receive, send


class Point(NamedTuple):
    x: int
    y: int


class Colour(enum.IntEnum):
    RED = 1


class Liar(list):
    def __iter__(self):
        return iter([1, 2, 3])

    def __eq__(self, other):
        return True


def round_trip(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**63,
        -(1 << 14000),
        0.1,
        -0.0,
        1e308,
        math.inf,
        -math.inf,
        1 + 2j,
        complex(math.inf, -0.0),
        "",
        "héllo\n\0",
        "😀",
        "\ud83d\ude00",
        "lone \ud800",
        b"",
        b"\xff\0",
        bytearray(b"x"),
        [],
        [1, [2.0, "3"], None],
        (),
        (1,),
        ((), [()]),
        set(),
        {1, 2.5, (2, 3)},
        frozenset({frozenset()}),
        {},
        {1: "a", "1": "b", (1, 2): [3], None: {}, 2.5: 0, frozenset({1}): 0},
        {"tuple": [1]},
        [{"int": "0x1"}],
        collections.deque([1, 2]),
        collections.deque([1, 2], maxlen=2),
        range(1, 10, 3),
        range(2**70),
        nested(MAX_DEPTH - 1),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_data_is_received_unchanged(value):
    received_value = round_trip(value)
    assert received_value == value
    assert type(received_value) is type(value)
    assert repr(received_value) == repr(value) or isinstance(value, set | frozenset | dict)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, {1: [2]}), {1: [2]}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, 1),
        (Liar([7]), [7]),
        (np.int64(3), 3),
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        ([np.int8(1)], [1]),
    ],
)
def test_subclasses_become_plain_data(value, plain):
    received_value = round_trip(value)
    assert received_value == plain
    assert type(received_value) is type(plain)


def test_nan_stays_nan():
    assert math.isnan(round_trip(math.nan))


@pytest.mark.parametrize("value", [object(), iter([]), np.arange(3), len, Ellipsis, {}.keys(), ValueError("x")])
def test_what_cannot_be_sent_equals_nothing(value):
    received_value = round_trip(value)
    assert isinstance(received_value, Opaque)
    assert type(value).__name__ in repr(received_value)
    for other in (received_value, value, None, True, 0, "", [], round_trip(value)):
        assert (received_value == other, received_value != other) == (False, True)


def test_the_receiver_gets_a_copy():
    value = [[1]]
    round_trip(value)[0].append(2)
    assert value == [[1]]


def test_cycles_and_depth_are_refused():
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (cycle, nested(MAX_DEPTH + 1), {1: nested(MAX_DEPTH)}):
        with pytest.raises(ValueError, match="deep"):
            encode(value)
    with pytest.raises(InvalidData):
        decode(nested(MAX_DEPTH + 5))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tuple": 1},
        {"tuple": [], "set": []},
        {"unknown": []},
        {"set": [[1]]},
        {"dict": [[[], 1]]},
        {"dict": [[1]]},
        {"dict": {"a": 1}},
        {"int": "x"},
        {"int": 5},
        {"str": "0"},
        {"str": "ff"},
        {"bytes": "zz"},
        {"bytes": 7},
        {"complex": [1.0]},
        {"complex": ["1", "2"]},
        {"range": [1, 2, 0]},
        {"range": [1, 2, "3"]},
        {"deque": [-1, []]},
        {"deque": ["1", []]},
        {"opaque": 7},
    ],
    ids=str,
)
def test_invalid_data_is_refused(data):
    with pytest.raises(InvalidData):
        decode(data)


def test_random_changes_give_a_value_or_invalid_data():
    generator = random.Random(0)
    frame = json.dumps([encode(["a", (1, {2: b"x"}), {3}, 2**80])]).encode()
    seen = {"value": 0, "invalid": 0}
    for _ in range(2000):
        noisy = bytearray(frame)
        for _ in range(generator.randint(1, 4)):
            noisy[generator.randrange(len(noisy))] = generator.choice(b'[]{}",:0a\\\xff')
        try:
            received(len(noisy).to_bytes(8, "big") + noisy)
            seen["value"] += 1
        except InvalidData:
            seen["invalid"] += 1
    assert min(seen.values()) > 10


def received(data: bytes) -> list[Any]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(data)
        return receive(ours)


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME + 1).to_bytes(8, "big"),
        b"\xff" * 20,
        (5).to_bytes(8, "big") + b"12345",
        (2).to_bytes(8, "big") + b"{}",
        (10_000).to_bytes(8, "big") + b"[" * 10_000,
        (6000).to_bytes(8, "big") + b"[" + b"9" * 5998 + b"]",
    ],
    ids=["long", "noise", "number", "object", "deep", "digits"],
)
def test_invalid_frames_are_refused(data):
    with pytest.raises(InvalidData):
        received(data)


@pytest.mark.parametrize("data", [b"", b"123", (5).to_bytes(8, "big") + b"[1]"])
def test_an_incomplete_frame_is_the_end_of_file(data):
    with pytest.raises(EOFError):
        received(data)


def test_several_frames_in_a_row():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for message in (["f", [1, (2,)]], [], [None]):
            send(theirs, message)
        assert [receive(ours) for _ in range(3)] == [["f", [1, (2,)]], [], [None]]
        with pytest.raises(ValueError, match="bytes"):
            send(theirs, ["x" * (MAX_FRAME + 1)])
