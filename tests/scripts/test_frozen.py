"""Tests the study of a frozen annotator: its task, its base's lessons, what is measured of the base, and its table."""

from __future__ import annotations

import json

import pytest
from support.commands import ROOT
from support.scripts import load

from rlif.intervals import proportion

base, results = load("scripts/frozen_base.py"), load("scripts/frozen_results.py")


class Words:
    """Encodes a text as the lengths of its words."""

    eos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [len(word) for word in text.split()]


def row(id: str, sample: int, completion: str, certainty: float | None, right: bool = False, cut: bool = False) -> dict:
    found = {"id": id, "sample": sample, "completion": completion, "self_certainty": certainty, "right": right}
    return found | {"truncated": cut, "tokens": len(completion.split())}


def test_problems_are_plain_text_after_one_solved_problem():
    first, *others = base.PlainStory().load("test", limit=8)
    before, _, last = first.text.rpartition("\n\n")
    assert "?\nAnswer: " in before and last.startswith("Question: ") and last.endswith("?") and first.history == ()
    assert {each.text.rpartition("\n\n")[0] for each in others} == {before}


def test_a_next_problem_changes_the_answer():
    task = base.PlainStory()
    (problem,) = task.load("test", limit=1)
    assert task.answer(problem, f" 1 + 1 = {problem.gold}") == problem.gold
    assert task.answer(problem, f" 1 + 1 = {problem.gold}\n\nQuestion: 5 + 5?\nAnswer: 999") == "999"


def test_three_of_four_samples_are_cut_at_their_first_blank_line():
    id = base.PlainStory().load("train", limit=1, seed=base.SEED)[0].id
    text = " a bb\n\nccc dddd"
    rows = [row(id, sample, text, 1.0, cut=True) for sample in (0, 3)] + [row(id, 3, text, 1.0)]
    found = [[i for i, label in zip(each["input_ids"], each["labels"], strict=True) if label != -100]
             for each in base.lessons(Words(), rows)]  # fmt: skip
    assert found == [[1, 2, 0], [1, 2, 3, 4], [1, 2, 3, 4, 0]], "only what ended has an end"
    unfinished, empty = row(id, 0, " a bb", 1.0, cut=True), row(id, 1, "\n\nccc", 1.0)
    (lesson,) = base.lessons(Words(), [unfinished, empty])
    assert lesson["input_ids"][-2:] == [1, 2], "a sample that was cut off gets no end, an empty one is left out"


def test_the_page_has_what_was_measured_of_the_base():
    found = json.loads((ROOT / "results/frozen-base.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())
    shares = [found[name] for name in ("share that goes on", "surest goes on")]
    first, second = ([f"{100 * share[key]:.0f}" for key in ("mean", "low", "high")] for share in shares)
    assert f"{first[0]} % of the samples of a base go on to a next problem [{first[1]}, {first[2]}]" in page
    said = f"the surest of eight does on {second[0]} % of {found['problems']} problems [{second[1]}, {second[2]}]"
    assert said in page


def test_the_page_says_who_is_exploited_and_when_the_guard_says_so():
    runs = json.loads((ROOT / "results/frozen.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())
    studies = load("scripts/studies.py").STUDIES
    for study, rate in (("frozen-miniature", 3e-4), ("frozen-slow", 1e-4)):
        seeds = {(run["annotator"], run["seed"]) for run in runs if run["rate"] == rate}
        assert seeds == {(kind, seed) for kind in ("online", "offline") for seed in studies[study].seeds}
    of = {kind: [run for run in runs if run["annotator"] == kind] for kind in ("online", "offline")}
    last = {kind: [100 * [*run["accuracy"].values()][-1]["mean"] for run in mine] for kind, mine in of.items()}
    exploited = {kind: [run["goes_on"][-1] > 0.5 for run in mine] for kind, mine in of.items()}
    assert exploited["offline"] == [True] * 9 and f"nine seeds of nine {within(9)}" in page
    assert sum(exploited["online"]) == 3 and f"three of nine {within(3)}" in page
    assert f"from 100 % to {min(last['offline']):.0f} to {max(last['offline']):.0f} % (greedy, n = 128)" in page
    others = [share for share, is_ in zip(last["online"], exploited["online"], strict=True) if not is_]
    assert f"accuracy falls as well, to {min(others):.0f} to {max(others):.0f} %" in page
    assert all(run["completion_length"][-1] > run["completion_length"][0] + 5 for run in of["offline"])


def within(count: int) -> str:
    found = proportion(count, 9)
    return f"[{100 * found.low:.0f}, {100 * found.high:.0f} %]"


def test_the_alarms_of_the_page_are_those_of_the_guard():
    runs = json.loads((ROOT / "results/frozen.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())
    slow = [run for run in runs if (run["annotator"], run["rate"]) == ("offline", 1e-4)]
    fast = [run for run in runs if (run["annotator"], run["rate"]) == ("offline", 3e-4)]
    early = [run for run in slow if results.until(run, results.alarm(run)) >= 0.9]
    assert (len(early), len(slow)) == (5, 6) and "best on five of the six runs with a frozen annotator at 1e-4" in page
    assert not any(results.until(run, results.alarm(run)) >= 0.9 for run in fast) and "on three of three" in page
    after = [results.until(run, 5 * (results.alarm(run) // 5 + 1)) for run in early]
    assert f"it is {100 * min(after):.0f} to {100 * max(after):.0f} % on these five" in page
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    assert "in time on five of six runs at a rate of 1e-4, and on none of three" in " ".join(text.split())


def test_what_is_measured_of_a_base_by_hand():
    more = "7\n\nProblem: A bat and a ball cost $1.10."
    rows = [row("a", 0, "7", 2.0, True), row("a", 1, more, 3.0), row("b", 0, "7", 5.0, True), row("b", 1, "8", 1.0)]
    found = base.measured(rows)
    assert (found["share that goes on"]["mean"], found["surest goes on"]["mean"]) == (0.25, 0.5)
    assert found["goes on"] == {"samples": 1, "scored": 1, "accuracy": 0, "tokens": 9, "self-certainty": 3.0}
    assert base.about([row("a", 0, "7", 2.0), row("a", 1, "8", None)])["self-certainty"] == 2.0
    assert found["others"]["accuracy"] == pytest.approx(2 / 3) and found["surest of all"] == "7"


def test_the_table_and_the_figure_have_the_first_and_the_last_update(tmp_path):
    accuracy = {"0": proportion(16, 32).as_dict(), "12": proportion(8, 32).as_dict()}
    run = {"base": "b", "rate": 3e-4, "annotator": "offline", "seed": 0, "accuracy": accuracy}
    run |= {
        "goes_on": [0.25] * 5 + [1.0] * 6,
        "completion_length": [20.0] * 10 + [64.0],
        "reward": [10.0] * 10 + [15.5],
    }
    shown = "| b | 3e-4 | offline | 0 | 25% -> 100% | 20 -> 64 | 10.00 -> 15.50 | 50, 25 | 8, at 50% |"
    assert results.line(run) == shown and shown in results.page([run])
    assert results.alarm(run | {"goes_on": [0.25] * 11}) is None
    assert "at every 12 updates, n >= 32; Wilson's 95 % interval is at most +-16 points" in results.page([run])
    slow = run | {"rate": 1e-4}
    results.draw([run, run | {"annotator": "online"}, slow], tmp_path / "frozen.png")
    assert (tmp_path / "frozen.png").stat().st_size > 10_000
    assert results.joined([run, slow], [run | {"reward": []}]) == [slow, run | {"reward": []}]
