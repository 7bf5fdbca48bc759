"""How sure the model is. `SIGNALS` is the whole list; a new signal is one file and one line here.

A token signal takes `TokenStats` and gives one number per completion, larger = more sure, None where there is none.
"""

from __future__ import annotations

from collections.abc import Callable

from rlif.signals.self_certainty import self_certainty
from rlif.types import TokenStats

TokenSignal = Callable[[TokenStats], list[float | None]]

SIGNALS: dict[str, TokenSignal] = {"self_certainty": self_certainty}
