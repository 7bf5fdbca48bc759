"""Rewards that fail: one sentence with the user's file and line, and mistakes of the package raised as they are."""

from __future__ import annotations

import time

import pytest

from rlif.errors import DataError, Preempted, RewardError
from rlif.rewards.time_limit import RewardFailed, time_limit
from rlif.scoring.statistics import length_mask

LINE = r" at .*test_time_limit\.py, line \d+"


def users(error):
    raise error


def test_an_error_of_a_users_function_has_its_file_and_line():
    with (
        pytest.raises(RewardFailed, match=rf"^the reward mine failed \(KeyError: 'x'\){LINE}$") as caught,
        time_limit("mine", 60, foreign=True),
    ):
        users(KeyError("x"))
    assert "raise error" in caught.value.details and "KeyError: 'x'" in caught.value.details


def test_a_sentence_that_was_made_already_gets_the_line():
    with pytest.raises(RewardFailed, match=rf"^mine raised ValueError{LINE}$"), time_limit("mine", 60, foreign=True):
        try:
            users(ValueError())
        except ValueError as error:
            raise RewardError("mine raised ValueError") from error


def test_a_call_through_a_library_is_still_the_users_line():
    with pytest.raises(RewardFailed, match=LINE), time_limit("self_certainty", 60):
        length_mask(None, None)  # in this file, as in a task of the user's


def test_a_mistake_of_the_package_is_raised_as_it_is():
    """No frame below `time_limit` is the user's."""
    scope = {"__name__": "rlif.signals.of_ours"}
    code = compile("def signal(stats): return stats + 'x'\nwith time_limit('s', 60): signal(1)", "<ours>", "exec")
    with pytest.raises(TypeError):
        exec(code, scope | {"time_limit": time_limit})


@pytest.mark.parametrize("error", [DataError("no such row"), Preempted()])
def test_sentences_and_signals_pass(error):
    with pytest.raises(type(error)) as caught, time_limit("mine", 60, foreign=True):
        raise error
    assert caught.value is error


def test_a_reward_that_hangs():
    with (
        pytest.raises(RewardFailed, match=rf"took more than 0.1 s for one batch{LINE}; raise reward_seconds"),
        time_limit("mine", 0.1),
    ):
        time.sleep(5)
