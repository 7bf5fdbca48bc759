"""Chooses one of the N samples of a problem by a rule, without training.

With v_i the value of a signal for sample i, larger = more sure, and a_i its answer:

    self_certainty, likelihood, ...   argmax_i v_i
    plurality                         argmax_a sum_i [a_i = a]
    weighted_vote, deepconf_*         argmax_a sum_i v_i [a_i = a]
    deepconf_*_top10, _top90          the same among the samples with v_i >= the 90th (10th) percentile of
                                      the values of samples that have an answer
    borda                             argmax_a sum_i (N - r_i + 1)^p [a_i = a], r_i = 1 for the largest v_i
    random                            any

Source: Borda and self-certainty arXiv 2502.18581, DeepConf's filters and weights arXiv 2508.15260, plurality arXiv
2203.11171. Ties go to what was sampled first. A sample without an answer casts no vote but keeps its rank in Borda and
counts in N; a sample without a value (None) casts no vote where votes are weighted. Without any answer, e.g. in
text that has none to extract, every rule but plurality and random takes the argmax. Answers that `equal` calls
the same are one answer.

Watch: Borda's best p grows with N. The paper gives 0.3 for N <= 16 and 1.2 for N >= 32; between them `borda_power`
goes straight in log N, which is ours.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any

from rlif.answers.clusters import Equal, by_problem, label, percentile, with_ids
from rlif.errors import DataError, RecipeError, lookup
from rlif.files import own
from rlif.signals import RENAMED, SIGNALS, renamed
from rlif.signals.own_signal import annotated_kind, token_signal

Labels = Sequence[int | None]  # which answer each sample gave, by number; None for no answer
Values = Mapping[int, float]  # how sure each sample is, by its number; without those that are unscorable


def borda_power(n: int) -> float:
    """Computes the exponent for N samples: 0.3 up to 16, 1.2 from 32, straight in log N between."""
    return 0.3 + 0.9 * min(1.0, max(0.0, math.log2(max(n, 1) / 16)))


def pass_at_k(n: int, right: int, k: int) -> float:
    """Computes the chance that k of n samples, drawn without replacement, hold at least one of the right ones.

    1 - C(n - right, k) / C(n, k), unbiased for k fresh samples (arXiv 2107.03374). With k = n: is any right?
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= right <= n and 1 <= k <= n, got n={n}, right={right}, k={k}")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def _most_sure(labels: Labels, values: Values, **_: Any) -> int | None:
    """Finds the largest value among samples with an answer; among all where there is no answer."""
    answered = [i for i in values if labels[i] is not None]
    return max(answered or values, key=values.__getitem__, default=None)


def _vote(labels: Labels, values: Values, weights: Mapping[int, float]) -> int | None:
    """Finds the most sure sample of the answer with the largest sum of weights, {sample: weight}."""
    sums: dict[int, float] = defaultdict(float)
    for i in sorted(weights):
        if (answer := labels[i]) is not None:
            sums[answer] += weights[i]
    if not sums:
        return _most_sure(labels, values)
    winner = max(sums, key=sums.__getitem__)
    return _most_sure([a if i in weights and a == winner else None for i, a in enumerate(labels)], values)


def _plurality(labels: Labels, values: Values, **_: Any) -> int | None:
    counts = Counter(answer for answer in labels if answer is not None)
    return labels.index(counts.most_common(1)[0][0]) if counts else None


def _weighted_vote(labels: Labels, values: Values, *, above: float = 0, **_: Any) -> int | None:
    """Weighs votes by value; a value below a percentile of the values that can vote does not count."""
    votes = {i: v for i, v in values.items() if labels[i] is not None}
    least = percentile(list(votes.values()), above) if votes else 0.0
    return _vote(labels, values, {i: v for i, v in votes.items() if v >= least})


def _borda(labels: Labels, values: Values, *, power: float | None = None, **_: Any) -> int | None:
    n = len(labels)
    power = borda_power(n) if power is None else power
    ranked = sorted(values, key=lambda i: -values[i])
    return _vote(labels, values, {i: ((n - r) / n) ** power for r, i in enumerate(ranked)})  # over n: no overflow


def _random(labels: Labels, values: Values, *, seed: int | str = 0, **_: Any) -> int | None:
    return random.Random(str(seed)).randrange(len(labels)) if labels else None


@dataclass(frozen=True)
class Rule:
    """Says how one of N samples is chosen."""

    signal: str | None  # the name in `rlif.SIGNALS` whose values it reads; None if it reads none
    # from labels and values (and the options power and seed) to the index of the chosen sample, or None
    pick: Callable[..., int | None]


def find_rule(name: str) -> Rule:
    """Returns a rule by name.

    The name may stand for a `Rule` of one's own, `my_module:NAME` or `rules.py:NAME`. It may also stand for a token
    signal of one's own; then the surest sample is chosen.
    """
    if not isinstance(name, str):
        raise RecipeError(f"the rule is {name!r:.40}; give a name of rlif.RULES, or your own as rules.py:NAME.")
    if not own.is_own(name):
        return lookup(RULES, name, "rule")
    found = own.load(name, "rule")
    if isinstance(found, Rule):
        if found.signal is not None and found.signal not in SIGNALS:
            token_signal(found.signal) if own.is_own(found.signal) else lookup(SIGNALS, found.signal, "signal")
        return Rule(found.signal, _picking(name, found.pick))
    if annotated_kind(found) == "token":
        token_signal(name)  # refuses one that fails
        return Rule(name, _most_sure)
    raise RecipeError(
        f"the rule {name} is a {type(found).__name__}; a rule is a Rule(SIGNAL, pick) of rlif.selection.rules, or a"
        " token signal."
    )


def _picking(name: str, pick: Callable[..., Any]) -> Callable[..., int | None]:
    """Checks what a rule of one's own returns."""

    def checked(labels: Labels, values: Values, **options: Any) -> int | None:
        if not labels:
            return None
        with own.calling(f"rule {name}", RecipeError):
            chosen = pick(labels, values, **options)
        if chosen is None:
            return None
        if isinstance(chosen, bool) or not isinstance(chosen, Integral) or not 0 <= int(chosen) < len(labels):
            raise RecipeError(
                f"the rule {name} returned {chosen!r} for {len(labels)} samples; it must return the place of one,"
                " counted from 0, or None."
            )
        return int(chosen)

    return checked


TOP10, TOP90 = partial(_weighted_vote, above=90), partial(_weighted_vote, above=10)
RULES: dict[str, Rule] = {
    "self_certainty": Rule("self_certainty", _most_sure),
    "borda": Rule("self_certainty", _borda),
    "plurality": Rule(None, _plurality),
    "weighted_vote": Rule("self_certainty", _weighted_vote),
    "deepconf_mean": Rule("mean_token_confidence", _weighted_vote),
    "deepconf_tail": Rule("tail_confidence", _weighted_vote),
    "deepconf_bottom": Rule("bottom_window_confidence", _weighted_vote),
    "deepconf_lowest": Rule("lowest_window_confidence", _weighted_vote),
    "deepconf_mean_top10": Rule("mean_token_confidence", TOP10),
    "deepconf_tail_top10": Rule("tail_confidence", TOP10),
    "deepconf_bottom_top10": Rule("bottom_window_confidence", TOP10),
    "deepconf_mean_top90": Rule("mean_token_confidence", TOP90),
    "deepconf_tail_top90": Rule("tail_confidence", TOP90),
    "deepconf_bottom_top90": Rule("bottom_window_confidence", TOP90),
    "likelihood": Rule("likelihood", _most_sure),
    "negative_entropy": Rule("negative_entropy", _most_sure),
    "random": Rule(None, _random),
}


def choose(
    rule: str,
    answers: Sequence[Any],
    values: Sequence[float | None],
    *,
    equal: Equal | None = None,
    power: float | None = None,
    seed: int | str = 0,
) -> int | None:
    """Returns the index of the sample that a rule chooses among the N of one problem.

    Args:
        rule: a name of `RULES`, or one of your own, see `find_rule`.
        answers: N of them, None where a sample gave none.
        values: N values of the rule's signal, larger = more sure, None (or not finite) where unscorable; plurality and
            random do not read them.
        equal: when two answers are the same, a task's `equal`; == if left out.
        power: Borda's p; `borda_power(N)` if left out.

    Returns:
        An index; None where there is nothing to choose by: no samples, no answers for plurality, no values.

    Raises:
        RecipeError: an unknown rule, or a power that is not a finite number from 0.

    Example:
        >>> choose("borda", ["4", "5", "5", None], [9.0, 7.0, 6.5, 8.0])
        1
    """
    if len(answers) != len(values):
        raise ValueError(f"{len(answers)} answers and {len(values)} values; give one of each per sample")
    if power is not None and not (isinstance(power, Real) and 0 <= power < math.inf):
        raise RecipeError(f"Borda's power must be a finite number from 0, got {power!r}.")
    if equal is not None and not callable(equal):
        raise RecipeError(f"equal is {equal!r}; give a function of two answers.")
    if text := next((value for value in values if isinstance(value, str)), None):
        raise DataError(f"a value of the rule's signal is the text {text!r}; expected numbers, or None.")
    if unread := [answer for answer in answers if not isinstance(answer, Hashable)]:
        raise DataError(f"an answer is {unread[0]!r:.40}; expected text, or None.")
    finite = {i: value for i, value in enumerate(values) if value is not None and math.isfinite(value)}
    return find_rule(rule).pick(label(answers, equal), finite, power=power, seed=seed)


def select(
    samples: Iterable[Mapping[str, Any]],
    rule: str = "borda",
    *,
    equal: Equal | None = None,
    power: float | None = None,
    seed: int = 0,
) -> dict[str, Mapping[str, Any] | None]:
    """Chooses the best of the N samples of each problem by a rule; no gold answers are read.

    Args:
        samples: mappings with `id`, the problem's; `answer`, None or absent for text that has none to extract; and the
            rule's signal under its own name, as `rlif select` and `rlif score` write them. Where none has an id, all
            samples of one `prompt` are of one problem, whose id is the prompt, see `rlif.answers.clusters.with_ids`.
        rule: a name of `RULES`. Text without answers is chosen by self-certainty alone, by Borda too.
        equal, power, seed: as in `choose`.

    Returns:
        {id: the chosen sample as it was given}; None where there was nothing to choose by.

    Raises:
        RecipeError: an unknown rule.
        DataError: no sample has the values that the rule reads; one has neither id nor prompt.

    Example:
        >>> samples = [
        ...     {"id": "p1", "answer": "4", "self_certainty": 9.0},
        ...     {"id": "p1", "answer": "5", "self_certainty": 7.0},
        ...     {"id": "p1", "answer": "5", "self_certainty": 6.5},
        ... ]
        >>> rlif.select(samples)["p1"]["answer"], rlif.select(samples, "self_certainty")["p1"]["answer"]
        ('5', '4')
    """
    if isinstance(samples, str | Mapping):
        raise RecipeError(f"samples is {samples!r:.40}; give a list of mappings. `rlif select` reads files.")
    groups = by_problem(with_ids(samples))
    signal = find_rule(rule).signal
    columns = {signal, *(old for old, new in RENAMED.items() if new == signal)}
    if groups and signal and not any(columns & sample.keys() for group in groups.values() for sample in group):
        raise DataError(f"the rule {rule} reads {signal}, which no sample has; score them with rlif score first.")
    chosen: dict[str, Mapping[str, Any] | None] = {}
    for problem, group in groups.items():
        answers = [sample.get("answer") for sample in group]
        values = [renamed(sample).get(signal) if signal else None for sample in group]
        i = choose(rule, answers, values, equal=equal, power=power, seed=f"{seed}/{problem}")
        chosen[problem] = None if i is None else group[i]
    return chosen
