"""Tests the monitor on made-up runs: each sign at its limit, hysteresis, state."""

from __future__ import annotations

import json
import math

import pytest

import rlif
from rlif.config.rounds import UNREAD
from rlif.guard.limits import Guard
from rlif.guard.monitor import FINITE, Monitor, replay
from rlif.guard.signs import SIGNS

QUICK = {"start": 1, "window": 1, "patience": 1}
HEALTHY = {
    "loss": 0.1, "kl": 0.0, "entropy": 1.0, "self_certainty": 6.0, "reward": 6.0, "completion_length": 100.0,
    "truncated": 0.1, "reward_spread": 0.2, "grad_norm": 0.5, "unscorable": 0.0, "repetition": 0.05, "compression": 1.5,
    "goes_on": 0.0, "unanswered": 0.1, "distinct": 0.5, "agreement": 0.5, "same_answer": 0.2, "pull": 0.9,
    "prompt_use": 0.4,
}  # fmt: skip

# sign: metric, the last value within its limit, the first value beyond
LIMITS = {
    "kl": ("kl", 0.045, 0.046),
    "entropy_low": ("entropy", 0.05, 0.049),
    "entropy_high": ("entropy", 2.0, 2.01),
    "certainty": ("self_certainty", 6.599, 6.61),
    "longer": ("completion_length", 400.0, 401.0),
    "shorter": ("completion_length", 25.0, 24.0),
    "truncated": ("truncated", 0.5, 0.51),
    "repetition": ("repetition", 0.25, 0.26),
    "compression": ("compression", 3.0, 3.01),
    "goes_on": ("goes_on", 0.1, 0.11),
    "unanswered": ("unanswered", 0.399, 0.41),
    "same_answer": ("same_answer", 0.6, 0.61),
    "distinct": ("distinct", 0.02, 0.019),
    "pull": ("pull", 0.7501, 0.7499),
    "prompt_use": ("prompt_use", 0.2, 0.19),
    "spread": ("reward_spread", 0.0101, 0.0099),
    "grad_norm": ("grad_norm", 5.0, 5.1),
    "unscorable": ("unscorable", 0.5, 0.51),
}


def raised(monitor: Monitor, rows: list[dict], first: int = 1) -> list:
    return [alarm for step, row in enumerate(rows, start=first) for alarm in monitor.step(step, row)]


def test_every_sign_is_tested_here():
    assert set(LIMITS) == set(SIGNS) - {"kl_slope"}
    assert {metric for metric, _, _ in LIMITS.values()} == {sign.metric for sign in SIGNS.values()} <= set(HEALTHY)


@pytest.mark.parametrize("sign", LIMITS)
def test_a_sign_is_raised_beyond_its_limit_and_not_at_it(sign):
    metric, within, beyond = LIMITS[sign]
    monitor = Monitor(Guard(**QUICK))
    assert raised(monitor, [HEALTHY, HEALTHY | {metric: within}]) == []
    (alarm,) = [alarm for alarm in monitor.step(3, HEALTHY | {metric: beyond}) if alarm.sign == sign]
    assert alarm.step == alarm.since == 3 and alarm.severity == SIGNS[sign].severity
    assert SIGNS[sign].cause in str(alarm) and SIGNS[sign].remedy in str(alarm) and "{" not in str(alarm)


@pytest.mark.parametrize("sign", [*LIMITS, "kl_slope"])
def test_a_sign_can_be_switched_off(sign):
    metric, within, beyond = LIMITS.get(sign, ("kl", 0, 5.0))
    direction = 1 if beyond > within else -1
    rows = [HEALTHY, *[HEALTHY | {metric: beyond * (1 + i) ** direction} for i in range(8)]]
    on, off = Guard(start=1, window=2, patience=1), Guard(start=1, window=2, patience=1, **{sign: None})
    assert sign in {alarm.sign for alarm in raised(Monitor(on), rows)}
    assert sign not in {alarm.sign for alarm in raised(Monitor(off), rows)}


def test_the_slope_is_by_least_squares():
    line = [HEALTHY | {"kl": 0.011 * step} for step in range(5)]
    monitor = Monitor(Guard(kl=None, patience=1))
    (alarm,) = raised(monitor, line)
    assert alarm.sign == "kl_slope" and alarm.value == pytest.approx(0.011) and alarm.step == 5
    assert raised(Monitor(Guard(kl=None, patience=1)), [HEALTHY | {"kl": 0.0099 * step} for step in range(9)]) == []


def test_a_healthy_run_raises_nothing_however_long():
    assert raised(Monitor(Guard()), [HEALTHY | {"kl": 0.01 + 0.005 * math.sin(step)} for step in range(500)]) == []


def test_one_odd_step_raises_nothing_and_patience_does():
    guard = Guard(start=2, window=1, patience=3)
    odd, well = HEALTHY | {"kl": 0.9}, HEALTHY | {"kl": 0.0}
    slope_free = guard.model_copy(update={"kl_slope": None})
    assert raised(Monitor(slope_free), [well, well, odd, odd, well, odd, odd, well, odd]) == []
    (alarm,) = raised(Monitor(slope_free), [well, well, odd, well, odd, odd, odd, odd])
    assert (alarm.since, alarm.step) == (5, 7)


def test_nothing_is_compared_before_there_is_a_start():
    monitor = Monitor(Guard(start=4, window=1, patience=1))
    assert raised(monitor, [HEALTHY | {"kl": 0.9}] * 3) == []
    assert [alarm.sign for alarm in monitor.step(4, HEALTHY | {"kl": 0.9})] == ["kl"]


def test_an_alarm_is_cleared_with_patience_and_can_be_raised_again():
    monitor = Monitor(Guard(start=1, window=1, patience=2, kl_slope=None))
    rows = [HEALTHY, *[HEALTHY | {"kl": kl} for kl in (0.9, 0.9, 0.0, 0.9, 0.0, 0.0, 0.9, 0.9)]]
    seen = []
    for step, row in enumerate(rows, start=1):
        seen.append(([alarm.step for alarm in monitor.step(step, row)], list(monitor.watch.raised)))
    assert [steps for steps, _ in seen] == [[], [], [3], [], [], [], [], [], [9]]
    assert [signs for _, signs in seen][2:8] == [["kl"], ["kl"], ["kl"], ["kl"], [], []]


@pytest.mark.parametrize("metric", FINITE)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_not_finite_is_raised_at_once_and_once(metric, value):
    monitor = Monitor(Guard())
    (alarm,) = monitor.step(1, HEALTHY | {metric: value})
    assert alarm.sign == "non_finite" and alarm.severity == "alarm" and metric in alarm.seen
    assert monitor.step(2, HEALTHY | {metric: value}) == [] and monitor.step(3, HEALTHY) == []
    assert len(monitor.step(4, HEALTHY | {metric: value})) == 1


@pytest.mark.parametrize("none", [None, math.nan])
def test_a_mean_over_no_scored_completion_is_missing(none):
    """All completions of a rollout may be truncated and masked; the sign `unscorable` counts such rollouts."""
    empty = HEALTHY | {"reward": none, "self_certainty": none, "unscorable": 1.0}
    monitor = Monitor(Guard())
    assert monitor.step(1, empty) == [] and monitor.is_healthy()
    one = HEALTHY | {"self_certainty": none, "self_certainty_unscorable": 1.0}
    assert monitor.step(2, one) == []
    assert len(monitor.step(3, empty | {"reward": math.inf})) == 1
    assert len(Monitor(Guard()).step(1, empty | {"unscorable": 0.9})) == 1
    assert len(Monitor(Guard()).step(1, empty | {"kl": none})) == 1


def test_numbers_that_are_not_finite_do_not_enter_means():
    monitor = Monitor(Guard(start=2, window=2, patience=1))
    raised(monitor, [HEALTHY, HEALTHY, HEALTHY | {"entropy": math.nan}, HEALTHY])
    assert monitor.watch.recent["entropy"] == [1.0, 1.0]


def test_metrics_that_are_not_logged_are_skipped():
    assert raised(Monitor(Guard(**QUICK)), [{"completion_length": 10.0}] * 9 + [{}]) == []
    assert raised(Monitor(Guard(**QUICK)), [HEALTHY | {"alarms": ["kl"], "path": "decode"}] * 3) == []


def test_zero_at_the_start_makes_no_ratio():
    rows = [HEALTHY | {"reward_spread": 0.0, "grad_norm": 0.0, "entropy": 0.0}, HEALTHY, HEALTHY]
    assert not {"spread", "grad_norm", "entropy_high", "certainty"} & {
        alarm.sign for alarm in raised(Monitor(Guard(**QUICK)), rows)
    }


def test_checkpoints_are_healthy_until_a_reading_is_beyond_and_never_after_an_alarm():
    monitor = Monitor(Guard(start=1, window=1, patience=2, kl_slope=None))
    healthy = []
    for step, kl in enumerate((0.0, 0.0, 0.9, 0.0, 0.9, 0.9, 0.0, 0.0, 0.0), start=1):
        monitor.step(step, HEALTHY | {"kl": kl})
        healthy.append(monitor.is_healthy())
    assert healthy == [True, True, False, True, False, False, False, False, False]
    assert monitor.alarm and monitor.alarm.since == 5 and monitor.watch.raised == []


def test_a_warning_leaves_checkpoints_healthy():
    monitor = Monitor(Guard(**QUICK))
    assert [alarm.severity for alarm in raised(monitor, [HEALTHY, HEALTHY | {"grad_norm": 50.0}])] == ["warning"]
    assert monitor.alarm is None and monitor.is_healthy()


@pytest.mark.parametrize("cut", range(1, 12))
def test_the_state_survives_json_at_any_step(cut):
    kls = (0.0, 0.01, 0.0, 0.05, 0.06, 0.06, 0.2, 0.0, 0.0, 0.0, 0.3, 0.4, 0.5)
    rows = [HEALTHY | {"kl": kl, "truncated": kl, "entropy": 1 - kl} for kl in kls]
    guard = Guard(start=2, window=2, patience=2)
    whole, first, second = Monitor(guard), Monitor(guard), Monitor(guard)
    everything = raised(whole, rows)
    before = raised(first, rows[:cut])
    second.restore(json.loads(json.dumps(first.state())))
    assert before + raised(second, rows[cut:], first=cut + 1) == everything != []
    assert second.state() == whole.state() and second.alarm == whole.alarm


def test_replay_reads_health_from_rollouts():
    metrics = [{"step": step, "kl": 0.0} for step in range(1, 12)]
    rollouts = {step: {"goes_on": 0.0 if step < 5 else 1.0} for step in range(1, 12)}
    guard = Guard(start=2, window=1, patience=2)
    assert replay(guard, metrics) == []
    assert [(alarm.sign, alarm.since, alarm.step) for alarm in replay(guard, metrics, rollouts)] == [("goes_on", 5, 6)]


def test_recipes_configure_the_guard():
    assert rlif.load_recipe("demo").guard == Guard() and Guard().policy == "log"
    assert rlif.load_recipe("demo", ["guard.policy=stop", "guard.kl=null"]).guard.kl is None
    assert rlif.load_recipe("demo", ["guard="]).guard == Guard()
    with pytest.raises(rlif.RlifError, match=r"unknown key 'guard.patients' in the recipe; did you mean 'patience'"):
        rlif.load_recipe("demo", ["guard.patients=1"])
    with pytest.raises(rlif.RlifError, match=r"guard.policy in the recipe: .*'stop' or 'rollback', found 'halt'"):
        rlif.load_recipe("demo", ["guard.policy=halt"])
    with pytest.raises(rlif.RlifError, match=r"rollback goes on with a larger training.beta, which is 0"):
        rlif.load_recipe("demo", ["guard.policy=rollback", "training.beta=0"])


@pytest.mark.parametrize("algorithm", ["dpo", "sft"])
def test_remedies_name_no_key_that_rounds_do_not_read(algorithm):
    unread = UNREAD[algorithm]
    monitor = Monitor(Guard(start=1, window=1, patience=1), unread)
    for name, sign in SIGNS.items():
        remedy = monitor._remedy(sign)
        assert remedy and remedy[0] != " " and remedy[-1] not in ",;", name
        assert not any(key in remedy for key in unread), name
    assert Monitor(Guard())._remedy(SIGNS["kl"]) == SIGNS["kl"].remedy
