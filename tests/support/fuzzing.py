"""What fuzz tests try: arbitrary bytes, valid files with changes, JSON of any shape."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def harmed(draw: Any, samples: list[bytes]) -> bytes:
    """A valid file with pieces replaced, cut out or doubled."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        data = data[:start] + draw(st.binary(max_size=6) | st.just(data[start:end] * 2)) + data[end:]
    return data


def some_bytes(*samples: bytes) -> Any:
    return st.binary(max_size=300) | harmed(list(samples) or [b"{}\n"])


def lines_of(rows: Any) -> Any:
    return st.lists(rows, max_size=4).map(lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode())
