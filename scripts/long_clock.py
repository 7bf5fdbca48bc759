"""Gives the clock task room for a second problem: completions may have 112 tokens, in training and in evaluation."""

from dataclasses import replace

from rlif.tasks.miniature import Clock


class LongClock(Clock):
    """The problems of clock, with a limit of 112 tokens; the answer is the last box, as ever."""

    name = "long-clock"
    protocols = {"default": replace(Clock.protocols["default"], max_tokens=112)}
