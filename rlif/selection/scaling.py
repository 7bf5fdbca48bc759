"""Computes how rules of best-of-N scale with N: their accuracy at N = 1, 2, 4, ... from S samples of each problem.

N of the S samples are drawn without replacement: all S where N = S, each one where N = 1, and otherwise `resamples`
subsets. These are cut from seeded permutations, so that every sample is used about equally often. All rules choose from
the same subsets, so their differences are paired. A problem's value is the share of its subsets in which the chosen
sample is right; choosing nothing is wrong. Two rows accompany the rules:

    mean@1    the share of right samples; does not depend on N
    pass@N    is any of N right? 1 - C(S - right, N) / C(S, N), exact over all subsets (arXiv 2107.03374)

Intervals are 95 % over problems: Wilson's where every problem's value is 0 or 1, Student's t on the values otherwise.
They hold for other problems of the kind and this model; resampling adds no information.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlif import progress
from rlif.answers.clusters import Equal, by_problem, label
from rlif.errors import DataError
from rlif.intervals import Interval, proportion, t_interval
from rlif.sampling.early_stop import WARM_UP
from rlif.selection.rules import RULES, borda_power, choose, find_rule, pass_at_k

RESAMPLES = 32
BASELINE = "plurality"

Row = Mapping[str, Any]
Cell = dict[str, Any]


def sizes(samples: int) -> list[int]:
    """Returns 1, 2, 4, ... up to the number of samples, that number included."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    return powers if powers[-1:] == [samples] else [*powers, samples]


def subsets(samples: int, n: int, resamples: int = RESAMPLES, seed: int | str = 0) -> Iterator[list[int]]:
    """Draws subsets of n of the samples, as sorted indices.

    Example:
        >>> list(subsets(4, 2, resamples=2))
        [[2, 3], [0, 1]]
    """
    if n == samples:
        yield list(range(samples))
    elif n == 1:
        yield from ([i] for i in range(samples))
    else:
        rng, left = random.Random(f"{seed}/{n}"), []
        for _ in range(resamples):
            if len(left) < n:
                left = rng.sample(range(samples), samples)
            drawn, left = left[:n], left[n:]
            yield sorted(drawn)


def interval(values: Sequence[float]) -> Cell:
    """Computes the mean of one value from 0 to 1 per problem, {n, mean, low, high}: Wilson's interval or Student's."""
    if all(value in (0, 1) for value in values):
        return proportion(int(sum(values)), len(values)).as_dict()
    return t_interval(values).within(0, 1).as_dict()


def difference(values: Sequence[float], others: Sequence[float]) -> Cell:
    """Computes the mean paired difference of values from 0 to 1 with Student's interval, {n, mean, low, high}."""
    return t_interval([a - b for a, b in zip(values, others, strict=True)]).within(-1, 1).as_dict()


def scaling(
    samples: Iterable[Row],
    *,
    rules: Sequence[str] | None = None,
    also: Sequence[str] = (),
    equal: Equal | None = None,
    power: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Computes the accuracy of each rule at each N.

    Args:
        samples: rows with `id`, `answer`, `right` and the signals that the rules read; see `rlif.selection.samples`.
        rules: names of `RULES`; all whose signal the samples have, if left out.
        also: rules of one's own beside these; of shipped ones nothing is added.
        equal, power: as in `rlif.selection.rules.choose`.
        resamples: subsets per problem and N.
        seed: for the subsets and the rule random.

    Returns:
        `n`, the sizes; `problems`, `samples` (of each problem, the least), `ungraded` (problems left out, having no
        gold answer), `resamples`, `seed`, `power` by N; `accuracy`, {row: [{n, mean, low, high} per size]} for mean@1,
        the rules and pass@N; `against`, the same of the rules' paired differences to plurality.
    """
    groups = by_problem(samples)
    graded = {name: rows for name, rows in groups.items() if all(row.get("right") is not None for row in rows)}
    if not graded:
        raise DataError(f"none of {len(groups)} problems has graded samples, so there is no accuracy to show.")
    least = min(map(len, graded.values()))
    rules = [*_usable(graded, rules), *_usable(graded, [rule for rule in also if rule not in RULES])]
    per_problem = []
    with progress.task("choosing by every rule, problem", len(graded)) as advance:
        for name, rows in graded.items():
            per_problem.append(_problem(rows[:least], rules, equal, power, resamples, f"{seed}/{name}"))
            advance()
    ns = sizes(least)
    values = {row: [[problem[row][i] for problem in per_problem] for i in range(len(ns))] for row in per_problem[0]}
    return {
        "n": ns,
        "problems": len(graded),
        "samples": least,
        "ungraded": len(groups) - len(graded),
        "resamples": resamples,
        "seed": seed,
        "power": [borda_power(n) if power is None else power for n in ns],
        "accuracy": {row: [interval(column) for column in columns] for row, columns in values.items()},
        "against": {
            rule: [difference(*pair) for pair in zip(values[rule], values[BASELINE], strict=True)]
            for rule in rules
            if rule != BASELINE and BASELINE in rules
        },
    }


def _usable(groups: Mapping[str, Sequence[Row]], rules: Sequence[str] | None) -> list[str]:
    """Returns the named rules, or all whose signal the samples have."""
    there = {signal for rows in groups.values() for row in rows for signal in row}
    if rules is None:
        return [name for name, rule in RULES.items() if rule.signal is None or rule.signal in there]
    for name in rules:
        signal = find_rule(name).signal
        if signal is not None and signal not in there:
            raise DataError(f"the rule {name} reads {signal}, which no sample has; name a model to score them with.")
    return list(rules)


def _problem(
    rows: Sequence[Row], rules: Sequence[str], equal: Equal | None, power: float | None, resamples: int, seed: str
) -> dict[str, list[float]]:
    """Computes the value of each row of the table at each N, for one problem."""
    labels = label([row.get("answer") for row in rows], equal)
    right = [bool(row["right"]) for row in rows]
    values = {rule: [row.get(find_rule(rule).signal or "") for row in rows] for rule in rules}
    found: dict[str, list[float]] = {name: [] for name in ("mean@1", *rules, "pass@N")}
    for n in sizes(len(rows)):
        drawn = list(subsets(len(rows), n, resamples, seed))
        for rule in rules:
            hits = 0
            for number, subset in enumerate(drawn):
                some, sure = [labels[i] for i in subset], [values[rule][i] for i in subset]
                chosen = choose(rule, some, sure, power=power, seed=f"{seed}/{n}/{number}")
                hits += chosen is not None and right[subset[chosen]]
            found[rule].append(hits / len(drawn))
        found["mean@1"].append(sum(right) / len(right))
        found["pass@N"].append(pass_at_k(len(right), sum(right), n))
    return found


def early_stop_report(
    full: Iterable[Row], early: Sequence[Row], *, warm_up: int = WARM_UP, equal: Equal | None = None
) -> dict[str, Any]:
    """Compares tokens and accuracy of sampling with stops and of the full run that shares its warm-up.

    The vote is DeepConf's: weighted by the lowest window, among the rows whose lowest window reaches the threshold.

    Returns:
        `tokens` of both and the share `saved`; `stopped`, the share of the rows after the warm-up; `accuracy`: of the
        vote among `early`, of the same without threshold among `full`, and of `plurality` among the full rows.
    """
    pairs = list(zip(by_problem(full).values(), by_problem(early).values(), strict=True))
    tokens = {name: sum(r["tokens"] for pair in pairs for r in pair[i]) for i, name in enumerate(("full", "early"))}
    rest = [row for row in early if row["sample"] >= warm_up]
    right: dict[str, list[bool]] = {"early": [], "full": [], "plurality": []}
    for whole, cut in pairs:
        if cut[0]["right"] is not None:
            votes = [r for r in cut if (low := r["lowest_window_confidence"]) is not None and low >= r["threshold"]]
            right["early"].append(_vote_is_right(votes, "deepconf_lowest", equal))
            right["full"].append(_vote_is_right(whole, "deepconf_lowest", equal))
            right["plurality"].append(_vote_is_right(whole, "plurality", equal))
    return {
        "tokens": tokens,
        "saved": 1 - tokens["early"] / tokens["full"] if tokens["full"] else None,
        "stopped": sum(row["stopped"] for row in rest) / len(rest) if rest else None,
        "accuracy": {name: proportion(sum(found), len(found)).as_dict() for name, found in right.items()},
    }


def report(
    rows: Sequence[Row], early: Sequence[Row] | None, *, warm_up: int, equal: Equal | None, **options: Any
) -> dict[str, Any]:
    """Returns `scaling`, with its options, where anything is graded; `early_stop` where rows were drawn with stops."""
    found: dict[str, Any] = {}
    if any(row.get("right") is not None for row in rows):
        found["scaling"] = scaling(rows, equal=equal, **options)
    if early is not None:
        found["early_stop"] = early_stop_report(rows, early, warm_up=warm_up, equal=equal)
    return found


def _vote_is_right(rows: Sequence[Row], rule: str, equal: Equal | None) -> bool:
    answers, values = [row["answer"] for row in rows], [row["lowest_window_confidence"] for row in rows]
    i = choose(rule, answers, values, equal=equal)
    return i is not None and bool(rows[i]["right"])


def share(cell: Cell) -> str:
    """Formats an interval in percent, e.g. `86.7 [82.0, 90.4]`."""
    return (Interval.read(cell) or Interval(0)).percent()


def early_line(found: Mapping[str, Any]) -> str:
    """Formats the report of `early_stop_report` in one line."""
    tokens, accuracy = found["tokens"], found["accuracy"]
    return (
        f"Early stopping: {tokens['early']:,} tokens instead of {tokens['full']:,} ({found['saved']:.1%} saved),"
        f" {found['stopped']:.1%} of the samples after the warm-up stopped; accuracy of the vote"
        f" {share(accuracy['early'])}, of the same on full samples {share(accuracy['full'])},"
        f" of plurality {share(accuracy['plurality'])}."
    )


def markdown(table: Mapping[str, Any]) -> str:
    """Formats the table of `scaling`: accuracies, then differences to plurality, in percent."""
    lines = [
        f"Accuracy in percent and its 95 % interval over {table['problems']} problems, by number of samples N.",
        "",
        *_grid(table["n"], table["accuracy"]),
    ]
    if table["against"]:
        lines += ["", f"Difference to {BASELINE} on the same subsets, in points.", ""]
        lines += _grid(table["n"], table["against"])
    return "\n".join(lines)


def _grid(ns: Sequence[int], rows: Mapping[str, Sequence[Cell]]) -> list[str]:
    head = ["| rule | " + " | ".join(f"N = {n}" for n in ns) + " |", "|---" * (len(ns) + 1) + "|"]
    return [*head, *(f"| {name} | " + " | ".join(map(share, cells)) + " |" for name, cells in rows.items())]
