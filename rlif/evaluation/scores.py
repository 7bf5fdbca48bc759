"""Computes the scores of a model from records of its completions; every share has n and a 95 % interval.

With n samples per problem: mean@n is the share of right completions, its interval over problems. maj@n tells whether
the most frequent answer is right, self_certainty@n whether the surest sample is (arXiv 2502.18581). pass@k is the
unbiased chance that one of k is right (arXiv 2107.03374). A completion without an answer is wrong. One whose problem
has no gold answer counts in all other figures only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlif.answers.clusters import Equal, by_problem
from rlif.intervals import Interval, clustered_mean, proportion
from rlif.sampling.protocol import Record
from rlif.selection.rules import choose, pass_at_k
from rlif.tasks import Task

KS = (1, 2, 4, 5, 8, 10, 16, 32, 64, 100, 128, 256)
CHOSEN = {"maj": "plurality", "self_certainty": "self_certainty"}  # scores of one chosen sample, and their rules
MEANS = ("completion_length", "self_certainty", "truncated", "unanswered")


@dataclass(frozen=True)
class Scores:
    """Holds the scores of one model on one task."""

    n: int  # samples per problem
    completions: int  # their number, over all problems
    accuracy: Interval  # mean@n; Wilson's interval with one sample per problem, clustered by problem with more
    chosen: Mapping[str, Interval]  # `maj@n` and `self_certainty@n` by name; empty with one sample per problem
    pass_at: Mapping[int, Interval]  # pass@k by k; empty with one sample per problem
    completion_length: float | None  # mean in tokens; None where it was not recorded, as the next two
    self_certainty: float | None  # mean in nats
    truncated: float | None  # share of completions that the limit cut off
    unanswered: float | None  # share of completions without an answer
    settings: Mapping[str, Any] = field(default_factory=dict)  # everything that decided the scores, as plain data
    records: Sequence[Record] = ()  # one per completion, where they are not in a file

    def as_dict(self) -> dict[str, Any]:
        """Returns the layout of files of scores: the settings, then the scores."""
        passes = {"pass@k": {str(k): share.as_dict() for k, share in self.pass_at.items()}} if self.pass_at else {}
        return {
            **self.settings,
            "n": self.n,
            "completions": self.completions,
            "accuracy": self.accuracy.as_dict(),
            **{name: share.as_dict() for name, share in self.chosen.items()},
            **passes,
            **{name: getattr(self, name) for name in MEANS},
        }

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Scores:
        """Reads that layout."""
        chosen = [name for name in found if name.partition("@")[0] in CHOSEN and "@" in name]
        means: dict[str, Any] = {name: found.get(name) for name in MEANS}
        own = {"n", "completions", "accuracy", "pass@k", *chosen, *MEANS}
        return cls(
            n=int(found["n"]),
            completions=int(found["completions"]),
            accuracy=_interval(found["accuracy"]),
            chosen={name: _interval(found[name]) for name in chosen},
            pass_at={int(k): _interval(share) for k, share in found.get("pass@k", {}).items()},
            **means,
            settings={key: value for key, value in found.items() if key not in own},
        )


def _interval(found: Any) -> Interval:
    return Interval.read(found) or Interval(0)


def scores_of(task: Task, records: Sequence[Record]) -> Scores:
    """Computes scores with the task's own equality."""
    task.compare_ahead([[record["answer"] for record in group] for group in by_problem(records).values()])
    return summarise(records, task.equal)


def summarise(records: Sequence[Record], equal: Equal | None = None) -> Scores:
    """Computes scores from records, which need only `id`, `answer` and `right`; `equal` is a task's, == if left out."""
    groups = by_problem(records)
    graded = [group for group in groups.values() if group[0]["right"] is not None]
    verdicts = [(bool(record["right"]), record["id"]) for group in graded for record in group]
    n = max(map(len, groups.values()), default=0)
    several = n > 1 and bool(graded)
    right = sum(verdict for verdict, _ in verdicts)
    return Scores(
        n=n,
        completions=len(records),
        accuracy=clustered_mean(*zip(*verdicts, strict=True)) if several else proportion(right, len(verdicts)),
        chosen=_chosen(graded, n, equal) if several else {},
        pass_at=_pass_at(graded) if several else {},
        completion_length=_mean(records, "tokens"),
        self_certainty=_mean(records, "self_certainty"),
        truncated=_mean(records, "truncated"),
        unanswered=sum(record["answer"] is None for record in records) / len(records) if records else None,
    )


def _chosen(groups: Sequence[Sequence[Record]], n: int, equal: Equal | None) -> dict[str, Interval]:
    """Computes how often each rule's choice is right, for the rules that can choose."""
    scores = {}
    for name, rule in CHOSEN.items():
        picked = []
        for group in groups:
            answers, values = ([record.get(key) for record in group] for key in ("answer", "self_certainty"))
            picked.append(choose(rule, answers, values, equal=equal))
        if any(i is not None for i in picked):
            right = sum(i is not None and bool(group[i]["right"]) for i, group in zip(picked, groups, strict=True))
            scores[f"{name}@{n}"] = proportion(right, len(groups))
    return scores


def _pass_at(groups: Sequence[Sequence[Record]]) -> dict[int, Interval]:
    counts = [(len(group), sum(bool(record["right"]) for record in group)) for group in groups]
    ks = [k for k in KS if k <= min(size for size, _ in counts)]
    return {k: clustered_mean([pass_at_k(size, right, k) for size, right in counts], range(len(counts))) for k in ks}


def _mean(records: Sequence[Record], key: str) -> float | None:
    values = [record[key] for record in records if record.get(key) is not None]
    return sum(values) / len(values) if values else None
