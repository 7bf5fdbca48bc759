"""Compares the numbers of a report with scipy, scikit-learn, the paper's own figures, and arithmetic by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from rlif.reporting import analysis
from rlif.reporting.analysis import ANSWER_TYPES, accuracy_collapse, answer_type, label_free_collapse, separation


def sample(n_right: int, n_wrong: int, shift: float, seed: int = 0, ties: bool = False):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(shift, 1, n_right), rng.normal(0, 1, n_wrong)])
    return (values.round(1) if ties else values).tolist(), [True] * n_right + [False] * n_wrong


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.7])
def test_separation_agrees_with_scipy_and_scikit_learn(shift, ties):
    metrics = pytest.importorskip("sklearn.metrics", reason="no scikit-learn; pip install -e .[dev]")
    values, right = sample(60, 90, shift, ties=ties)
    found = separation(values, right)
    assert found is not None and (found.n_right, found.n_wrong) == (60, 90)
    test = stats.mannwhitneyu(values[:60], values[60:], alternative="greater", method="asymptotic")
    assert (found.u, found.p) == (test.statistic, pytest.approx(test.pvalue, rel=1e-12))
    assert found.auroc == pytest.approx(metrics.roc_auc_score(right, values), abs=1e-12)
    plain = stats.mannwhitneyu(
        values[:60], values[60:], alternative="greater", method="asymptotic", use_continuity=False
    )
    assert found.r == pytest.approx(stats.norm.isf(plain.pvalue) / math.sqrt(150), abs=1e-9)


def test_u_counts_pairs():
    values, right = sample(7, 5, 0.5, ties=True)
    pairs = itertools.product(values[:7], values[7:])
    found = separation(values, right)
    assert found is not None and found.u == sum((a > b) + (a == b) / 2 for a, b in pairs)


@pytest.mark.parametrize(
    ("u", "accuracy", "p", "r"),
    [
        (30910, 0.544, 0.52, -0.00),
        (45415, 0.612, 8.2e-24, 0.45),
        (40722, 0.544, 7.9e-10, 0.27),
        (41178, 0.636, 1.7e-15, 0.35),
    ],
)
def test_the_papers_p_and_r_follow_from_its_u(u, accuracy, p, r):
    """ArXiv 2505.19590, Fig. 8 and Table 1: U on MATH-500 with these accuracies gives the p and r it prints."""
    n_right = round(500 * accuracy)
    values = np.arange(500.0)
    right = with_u(500, n_right, u)
    found = separation(values.tolist(), right)
    assert found is not None and found.u == u
    assert f"{found.p:.1e}" == f"{p:.1e}"
    assert f"{found.r:.2f}" == f"{r:.2f}"


def with_u(n: int, n_right: int, u: int) -> list[bool]:
    """Chooses which of the ranks 0 .. n-1 are right to give this U: moves right ones up one by one."""
    places = list(range(n_right))
    for i in reversed(range(n_right)):
        step = min(u, n - n_right)
        places[i] += step
        u -= step
    return [i in set(places) for i in range(n)]


@pytest.mark.parametrize(("values", "right"), [([], []), ([1.0], [True]), ([1.0, 2.0], [False, False])])
def test_separation_needs_right_and_wrong_completions(values, right):
    assert separation(values, right) is None


def test_equal_confidence_does_not_separate():
    found = separation([2.0] * 6, [True, False] * 3)
    assert found is not None and (found.auroc, found.r, found.p, found.u) == (0.5, 0.0, 1.0, 4.5)


def test_calibration_slope_is_a_regression_on_ranks():
    values, right = sample(70, 50, 0.8, ties=True)
    found = analysis.calibration(values, right)
    assert found is not None
    ranks = (stats.rankdata(values) - 0.5) / len(values)
    assert found.slope == pytest.approx(np.polyfit(ranks, np.array(right, float), 1)[0], abs=1e-9)
    assert sum(b.n for b in found.bins) == 120 and sum(b.right for b in found.bins) == 70
    assert max(b.n for b in found.bins) - min(b.n for b in found.bins) <= 1
    assert all(before.high <= after.low for before, after in itertools.pairwise(found.bins))


def test_calibration_of_distinct_values_follows_from_auroc():
    values, right = sample(70, 50, 0.8)
    found, test = analysis.calibration(values, right), separation(values, right)
    n, share = 120, 70 / 120
    assert found is not None and test is not None
    assert found.slope == pytest.approx(12 * share * (1 - share) * (test.auroc - 0.5) * n**2 / (n**2 - 1), abs=1e-9)


@pytest.mark.parametrize("right", [[False] * 4 + [True] * 4, [True] * 4 + [False] * 4])
def test_calibration_at_its_extremes(right):
    found = analysis.calibration(list(range(8)), right, bins=2)
    assert found is not None and abs(found.slope) == pytest.approx(1.5, abs=0.03)
    assert [b.accuracy for b in found.bins] == ([0, 1] if right[-1] else [1, 0])
    assert analysis.calibration([1.0, 1.0], [True, False]) is None


@pytest.mark.parametrize(
    ("completion", "answer", "kind"),
    [
        ("I do not know what to say about all of this here now.", None, 0),
        ("", None, 0),
        ("The answer is \\boxed{four}.", "four", 1),
        ("\\boxed{4} because one and three and then nothing else at all is four.", "4", 1),
        ("First add six, now two. Then add seven, now nine. The answer is \\boxed{nine}.", "nine", 2),
        ('{"reasoning": "the loop runs three times over the list and adds one", "answer": "3"}', "3", 2),
        ('{"answer": "[1, 2]"}', "[1, 2]", 1),
        ("七加十一是六，六加七是一，答案是\\boxed{一}", "一", 2),
        ("2 + 2 = 4, 4 + 4 = 8, 8 + 8 = 16, 16 + 16 = 32: 32", "32", 2),
        ("The answer is 1,234", "1234", 1),
    ],
)
def test_types_of_answers(completion, answer, kind):
    assert answer_type(completion, answer) == ANSWER_TYPES[kind]


def test_types_are_counted_for_records_with_a_text():
    rows = [
        {"completion": "\\boxed{1}", "answer": 1},
        {"completion": "x", "answer": None},
        {"answer": "2"},
        {"completion": None},
    ]
    assert analysis.answer_types(rows) == dict(zip(ANSWER_TYPES, (1, 1, 0), strict=True))


def evaluations(*shares: float, n: int = 256, every: int = 5) -> dict[int, dict]:
    return {
        every * i: {"accuracy": {"n": n, "mean": share, "low": max(0, share - 0.05), "high": min(1, share + 0.05)}}
        for i, share in enumerate(shares)
    }


@pytest.mark.parametrize(
    ("shares", "step"),
    [
        ((0.1, 0.9, 0.92, 0.9), None),  # learned and held
        ((0.1, 0.9, 0.51, 0.0, 0.0), 15),  # half of the gain, 50 %, is the limit
        ((0.1, 0.9, 0.0, 0.9), None),  # a dip
        ((0.1, 0.9, 0.0, 0.9, 0.1, 0.0), 20),  # a dip, then the end
        ((0.6, 0.61, 0.55, 0.5), None),  # lost less than a fifth
        ((0.6, 0.5, 0.3, 0.2), 10),  # never learned, and lost
        ((0.2, 0.26, 0.17), None),  # intervals overlap
        ((0.5,), None),
        ((), None),
    ],
)
def test_collapse_by_accuracy(shares, step):
    found = accuracy_collapse(analysis.accuracies(evaluations(*shares)))
    assert (found and found.step) == step


def test_evaluations_without_accuracy_are_left_out():
    broken = [{"mean": None, "n": 4}, {"n": 0, "mean": 0.5}, None, "0.5", {"n": 3, "mean": True}]
    assert analysis.accuracies({i: {"accuracy": value} for i, value in enumerate(broken)}) == {}
    bare = analysis.accuracies({0: {"accuracy": {"n": 1, "mean": 1.0, "low": None, "high": None}}})[0]
    assert bare.low is None and str(bare) == "100.0%"


def columns(**values: list[float]) -> dict[str, np.ndarray]:
    length = len(next(iter(values.values())))
    return {"step": np.arange(1.0, length + 1)} | {name: np.array(column) for name, column in values.items()}


@pytest.mark.parametrize(
    ("metrics", "step"),
    [
        (columns(truncated=[0.05] * 10 + [1.0] * 10), 13),  # three of the window's five
        (columns(truncated=[0.05] * 10 + [1.0] * 5 + [0.0] * 10), None),  # came back
        (columns(truncated=[0.9] * 20), None),  # so from the start
        (columns(completion_length=[400.0] * 10 + [7.0] * 10), 14),
        (columns(completion_length=[20.0] * 10 + [56.0] * 10), None),
        (columns(reward=[1.0, 1.0, math.nan, 1.0, math.nan, math.nan]), 5),
        (columns(reward=[math.nan] * 4), None),  # never was a number: said elsewhere
        (columns(truncated=[math.nan, 1.0]), None),
        ({}, None),
    ],
)
def test_collapse_without_labels(metrics, step):
    found = label_free_collapse(metrics)
    assert (found and found.step) == step


def test_early_learning_is_the_evaluation_nearest_to_step_ten():
    found = analysis.early_learning(analysis.accuracies(evaluations(0.1, 0.5, 0.9, 0.8, every=4)))
    assert {when: step for when, (step, _) in found.items()} == {"start": 0, "early": 8, "end": 12}
    assert found["early"][1].mean == 0.9
    assert (
        list(analysis.early_learning(analysis.accuracies(evaluations(0.1)))) == ["start"]
        and analysis.early_learning({}) == {}
    )


def test_drift_and_tokens_per_second():
    assert analysis.drift(np.array([math.nan, 1.0, 2.0, 4.0])) == (1.0, 4.0)
    assert analysis.drift(np.arange(1000.0)) == (9.5, 989.5)
    assert all(math.isnan(value) for value in analysis.drift(np.array([math.nan])))
    rates = analysis.tokens_per_second(
        {"step": np.array([2.0, 4, 6]), "tokens": np.array([100.0, 300, 350]), "step_seconds": np.array([1.0, 2, 0])}
    )
    assert rates is not None and rates[:2].tolist() == [50.0, 50.0] and math.isnan(rates[2])
    assert analysis.tokens_per_second({"step": np.array([1.0])}) is None


def test_graded_records_have_a_verdict_and_a_finite_confidence():
    rows = [
        {"right": True, "self_certainty": 1.5},
        {"right": None, "self_certainty": 1.0},
        {"right": False, "self_certainty": None},
        {"right": False, "self_certainty": math.inf},
        {"right": False, "self_certainty": 2},
        {},
    ]
    assert analysis.graded(3, rows) == analysis.Graded(3, [1.5, 2.0], [True, False])
