"""Tests the table of passes: which row is read, and when a separate pass is needed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from rlif.config.loading import load_recipe
from rlif.config.passes import EVERY, TABLE, Conditions, needs_of, which_pass
from rlif.scoring.taps import CHEAP, COSTLY
from rlif.signals import NEEDS

FLAGS = ("scored", "reference", "captured", "plain")


def every_condition():
    for annotator in ("online", "offline", "ema", "lagged"):
        for values in itertools.product([False, True], repeat=len(FLAGS)):
            yield Conditions(annotator, **dict(zip(FLAGS, values, strict=True)))


def test_the_tables_statistics_are_those_that_taps_compute():
    assert {*CHEAP, *COSTLY, "logprob"} == EVERY == {needs.removesuffix("_BT") for needs in NEEDS.values()}


def test_ema_and_lagged_annotators_always_need_a_separate_pass():
    for conditions in every_condition():
        if conditions.annotator in ("ema", "lagged"):
            assert which_pass(conditions, {"entropy"}).path == "pass"
            assert which_pass(conditions, set()).path == "none"


def test_a_separate_pass_is_run_only_if_the_row_lacks_a_statistic():
    for conditions, need in itertools.product(every_condition(), sorted(EVERY)):
        found = which_pass(conditions, {need})
        assert (found.path == "pass") == (found.read is None or need not in TABLE[found.read].gives)
        assert found.extra == int(found.path == "pass")


def test_rows_that_the_check_found_inexact_are_not_read():
    for conditions in every_condition():
        read = which_pass(conditions, set()).read
        while read is not None:
            conditions = replace(conditions, inexact=conditions.inexact | {read})
            assert which_pass(conditions, {"mean_logprob"}).read not in conditions.inexact
            read = which_pass(conditions, set()).read
        assert which_pass(conditions, {"mean_logprob"}).path == "pass"


@pytest.mark.parametrize(
    ("conditions", "path"),
    [
        (Conditions("online", scored=True, captured=True), "policy"),
        (Conditions("online", scored=True, plain=True, inexact=frozenset({"policy"})), "decode"),
        (Conditions("online", captured=True), "vllm"),
        (Conditions("online", plain=True, reference=True), "decode"),
        (Conditions("offline", plain=True, reference=True), "reference"),
        (Conditions("offline", plain=True), "pass"),
        (Conditions("online"), "pass"),
    ],
)
def test_each_condition_selects_its_row(conditions, path):
    assert which_pass(conditions, {"mean_logprob"}).path == path


def test_needs_of_gives_the_statistics_that_rewards_need():
    assert needs_of(load_recipe("demo").weights) == {"mean_logprob"}
    assert needs_of(["accuracy", "likelihood", "negative_entropy"]) == {"logprob", "entropy"}
