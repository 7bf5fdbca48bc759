"""Holds what docs/evidence.md and docs/training.md say of cures for collapse to the kept results."""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import fmean

import pytest
from support.commands import ROOT
from support.scripts import load

from rlif.intervals import proportion

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
PAGE = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def cures() -> list[dict]:
    return load("scripts/cures_results.py").kept_runs(ROOT / "results/cures.json")


def cure_runs(runs: list[dict], study: str, row: str, seeds: Iterable[int] = ()) -> list[dict]:
    found = [run for run in runs if (run["study"], run["row"]) == (study, row)]
    return [run for run in found if not seeds or run["seed"] in seeds]


def ends(runs: list[dict]) -> str:
    return ", ".join(f"{100 * run['curve'][max(run['curve'])]:.0f}" for run in runs) + " %"


SEEDS = range(5)  # what all rows of the table have


def spread(runs: list[dict]) -> str:
    """Writes the mean over seeds, and the lowest and the highest, in per cent."""
    last = [100 * run["curve"][max(run["curve"])] for run in runs]
    return f"{fmean(last):.0f} ({min(last):.0f} - {max(last):.0f})"


def test_the_recipe_that_keeps_its_gain_is_that_of_the_results(cures):
    module = load("scripts/cures_results.py")
    own = cure_runs(cures, "cures-long", "likelihood-floor-cosine")
    assert [run["seed"] for run in own] == [*range(11, 21)]
    assert min(module.kept(run) for run in own) >= module.HELD
    last = [100 * module.end(run) for run in own]
    assert f"end at {min(last):.0f} to {max(last):.0f} % on ten seeds of ten" in PAGE
    lowest = sorted(100 * min(share for step, share in run["curve"].items() if step) for run in own)
    assert f"two of the ten fall to {lowest[0]:.0f} %" in PAGE and round(lowest[1]) == round(lowest[0]) < lowest[2]
    tenth = [100 * run["curve"][10] for run in own]
    assert f"is at {min(tenth):.0f} to {max(tenth):.0f} % at step 10" in PAGE


def test_the_table_of_three_keys_is_that_of_the_results(cures):
    module, best = load("scripts/cures_results.py"), []
    for words, constant, falling in (
        ("self-certainty", "paper", "cosine"),
        ("self-certainty, floor", "floor", "floor-cosine"),
        ("likelihood", "likelihood", "likelihood-cosine"),
        ("likelihood, floor", "likelihood-floor", "likelihood-floor-cosine"),
    ):
        both = [cure_runs(cures, "cures-long", row, (11, 12)) for row in (constant, falling)]
        assert [[run["seed"] for run in runs] for runs in both] == [[11, 12], [11, 12]]
        assert f"| {words} | {ends(both[0])} | {ends(both[1])} |" in PAGE, words
        best += [100 * module.peak(run)[1] for runs in both for run in runs]
    alone = " and ".join(f"{100 * module.end(run):.0f}" for run in cure_runs(cures, "cures-long", "kl-cov-0.1"))
    assert f"KL-Cov with a share of 0.1 ends at {alone} % at a constant rate" in PAGE
    for row, said in {
        "floor-cosine": "Without likelihood two of two fall to {} and {} % on the way",
        "likelihood-cosine": "without the floor one of two to {} %",
    }.items():
        lowest = [
            min(share for step, share in run["curve"].items() if step) for run in cure_runs(cures, "cures-long", row)
        ]
        assert said.format(*(f"{100 * share:.0f}" for share in lowest)) in PAGE
    assert f"the best of each run is {min(best):.0f} to {max(best):.0f} %" in PAGE


def test_the_recipe_elsewhere_is_that_of_the_results(cures):
    module = load("scripts/cures_results.py")
    of = {row: cure_runs(cures, "cures-elsewhere", row) for row in load("scripts/studies.py").ELSEWHERE}
    kept = [
        module.kept(run)
        for row in ("tiny-short", "tiny-reasoner", "temperature-0.7", "temperature-1.3", "rate-1e-4")
        for run in of[row]
    ]
    assert len(kept) == 10 and min(kept) >= 0.975 and "98 % of its best or more on tiny-short and tiny-reasoner" in PAGE

    def both(values: Iterable[float]) -> str:
        return " and ".join(f"{100 * value:.0f}" for value in values)

    fast, paper = of["rate-1e-3"], of["paper-rate-1e-4"]
    lowest = [min(share for step, share in run["curve"].items() if step) for run in fast]
    assert f"At 1e-3 it falls to {both(lowest)} % on the way and ends at {both(map(module.end, fast))} %" in PAGE
    unsure = of["wrong-and-sure-base"]
    assert [module.fall(run) for run in unsure] == [0, 0] and not any(map(module.holds, unsure))
    assert "on wrong-and-sure-base it gains nothing" in PAGE
    early = [share for run in paper for step, share in run["curve"].items() if 20 <= step <= 100]
    said = f"is at {100 * min(early):.0f} % or more from step 20 to 100 and ends at {both(map(module.end, paper))} %"
    assert said in PAGE


# the key of a row in docs/training.md, and the row of the study
KEYS = {
    "`normalisation: group_std_floor`": "floor",
    "`reward: likelihood`": "likelihood",
    "`training: {lr_scheduler_type: cosine}`": "cosine",
    "`normalisation: group_rank`": "rank",
    "`token_update: kl_cov`": "kl-cov",
    "`token_update: {kind: kl_cov, share: 0.1}`": "kl-cov-0.1",
    "`token_update: clip_cov`": "clip-cov",
    "`token_update: {kind: clip_cov, share: 0.1}`": "clip-cov-0.1",
    "`mask_answer: true`": "mask-answer",
    "`reward: {self_certainty: 1, self_consistency: 1}`": "votes",
    "`reward: {self_certainty: {cycle: [[5, 0], [5, 1]]}, accuracy: {cycle: [[5, 1], [5, 0]]}}`": "alternate-gold",
    "`limit: 32`": "few-32",
    "`annotator: lagged`": "lagged",
    "`annotator: ema`": "ema",
    "`guard: {policy: stop}`": "guard-stop",
    "`guard: {policy: rollback}`": "guard-rollback",
}


def test_the_keys_against_collapse_have_the_accuracies_of_the_results(cures):
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    lines = text.partition("| key | what it does |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = {key: cells for _, key, *cells, _ in (re.split(r" ?\| ?", line) for line in lines)}
    assert {*rows} == {*KEYS}
    of = {row: cure_runs(cures, "cures", row, SEEDS) for row in load("scripts/studies.py").CURES}
    for key, row in KEYS.items():
        about, _, small, real = rows[key]
        assert [run["seed"] for run in of[row]] == [*SEEDS] and small == spread(of[row]), key
        runs = cure_runs(cures, "cures-real", row)
        assert real == (ends(runs).removesuffix(" %") if runs else "-"), key
        if row.startswith("guard"):
            last = sorted({run["steps"] for run in of[row]}), sorted({run["steps"] for run in runs})
            said = [f"{steps[0]} to {steps[-1]}" for steps in last]
            assert about.endswith(f"after {said[0]} and {said[1]} steps"), key
    text = " ".join(text.split())
    assert f"ends at {spread(of['paper'])}, gold answers at {spread(of['gold'])}, from" in text
    tenth = [100 * run["curve"][10] for run in of["paper"]]
    assert f"and {min(tenth):.0f} to {max(tenth):.0f} % at step 10" in text
    assert f"which alone ends at {spread(of['two-updates'])} %" in text
    real = {row: ends(cure_runs(cures, "cures-real", row)) for row in ("paper", "random", "gold")}
    said = f"the paper's form ends at {real['paper']}, random numbers at {real['random']}, gold answers at"
    assert f"{said} {real['gold']}" in text


def test_what_each_cure_alone_ends_at_is_that_of_the_results(cures):
    module = load("scripts/cures_results.py")
    for words, row in {
        "the paper's form ends at {} %": "paper",
        "gold answers at {} %": "gold",
        "the floor at {} %": "floor",
        "gold answers in turn with confidence at {} %": "alternate-gold",
        "which alone end at {} %": "two-updates",
    }.items():
        assert words.format(spread(cure_runs(cures, "cures", row, SEEDS))) in PAGE, row
    few = [spread(cure_runs(cures, "cures", f"few-{count}", SEEDS)) for count in (32, 128, 512)]
    assert f"With 32, 128 and 512 problems the means are {few[0]}, {few[1]} and {few[2]} %" in PAGE
    named = ("votes", "rank", "mask-answer", "few-32", "lagged", "ema", "clip-cov-0.1", "kl-cov")
    runs = {row: cure_runs(cures, "cures", row, SEEDS) for row in named}
    last = [100 * module.end(run) for of in runs.values() for run in of]
    assert f"clip-cov and KL-Cov end at {min(last):.0f} to {max(last):.0f} %" in PAGE
    assert not any(module.kept(run) >= module.HELD for of in runs.values() for run in of), "none keeps its best"


def test_what_holds_by_the_plans_rule_is_that_of_the_results(cures):
    module = load("scripts/cures_results.py")
    of = {row: cure_runs(cures, "cures", row) for row in load("scripts/studies.py").CURES}
    whole = {row: runs for row, runs in of.items() if [run["seed"] for run in runs] == [0, 1, 2, 3, 4]}
    held = {row: sum(map(module.holds, runs)) for row, runs in whole.items()}
    several = {"floor-cosine": 5, "guard-stop": 4, "kl-cov-0.1": 3, "gold": 3, "guard-rollback": 3, "cosine": 2}
    assert {row: count for row, count in held.items() if count} == {**several, "likelihood": 1}
    assert f"as gold answers do, {ends(of['gold'])}, and the guard's rollback" in PAGE
    assert f"the floor with a falling rate, {ends(of['floor-cosine'])} (five of five)" in PAGE
    steps = sorted(run["steps"] for run in of["guard-stop"])
    said = f"{ends(of['guard-stop'])}, which ends the run after {steps[0]} to {steps[-1]} steps (four of five)"
    assert f"the guard's stop, {said}" in PAGE
    assert f"fifty times its share of tokens, {ends(of['kl-cov-0.1'])}, does on three of five" in PAGE


def test_the_advice_on_collapse_is_that_of_the_results(cures):
    module, text = load("scripts/cures_results.py"), (ROOT / "docs/training.md").read_text(encoding="utf-8")
    advice = " ".join(text.partition("**Our advice**")[2].partition("\n\n")[0].split())
    long = {row: cure_runs(cures, "cures-long", row, (11, 12)) for row in ("floor-cosine", "cosine", "floor")}
    both, alone, constant = (ends(runs).replace(", ", " and ") for runs in long.values())
    assert f"ends at {both} on two seeds, without the floor at {alone}, at a constant rate at {constant}." in advice
    five = cure_runs(cures, "cures", "floor-cosine")
    assert len(five) == 5 and all(map(module.holds, five)) and "95 % of the best on five seeds of five" in advice
    ten = [module.end(run) for run in cure_runs(cures, "cures-long", "likelihood-floor-cosine")]
    assert len(ten) == 10 and f"ten seeds of ten end at {100 * min(ten):.0f} % or more" in advice
    fast = cure_runs(cures, "cures-elsewhere", "rate-1e-3")
    lowest = [min(share for step, share in run["curve"].items() if step) for run in fast]
    assert f"two of two fall to {100 * max(lowest):.0f} % or less on the way" in advice


REAL_ROWS = {  # row of cures-real without its rate: its words on the page
    "paper": "self-certainty, the paper's form",
    "floor": "self-certainty, floor",
    "kl-cov-0.1": "self-certainty, KL-Cov with a share of 0.1",
    "floor-cosine": "self-certainty, floor, falling rate",
    "likelihood-floor-cosine": "likelihood, floor, falling rate",
    "random": "random numbers",
    "gold": "gold answers",
}
RATES = ("", "-3e-4", "-1e-4")
REAL_KEYS = {  # words of a sentence on the page: row
    "votes beside confidence {};": "votes",
    "ranks in the group {};": "rank",
    "32 problems {} (other runs see 80);": "few-32",
    "no gradient on the answer {};": "mask-answer",
    "clip-cov {};": "clip-cov-0.1",
    "a lagged annotator {};": "lagged",
    "an averaged one {};": "ema",
    "gold answers in turn with confidence {}.": "alternate-gold",
    "after 10 and 11 updates with {},": "guard-stop",
    "its rollback with {}.": "guard-rollback",
    "with votes beside confidence at {};": "votes-kl-cov-0.1",
    "With a share of 0.1 it ends at {},": "kl-cov-0.1",
    "two updates of a rollout, which both have, alone at {}.": "two-updates",
}


def test_the_table_of_the_real_model_is_that_of_the_results(cures):
    module = load("scripts/cures_results.py")
    of = {run["row"]: [] for run in cures if run["study"] == "cures-real"}
    for row, runs in of.items():
        runs += cure_runs(cures, "cures-real", row)
        assert [run["seed"] for run in runs] == [0, 1] and {run["problems"] for run in runs} == {64}
        assert {run["curve"][0] for run in runs} == {0.8125}
    assert {*of} <= {row + rate for row in REAL_ROWS for rate in RATES} | {*REAL_KEYS.values()}
    for words, row in REAL_KEYS.items():
        assert words.format(ends(of[row])) in PAGE, row
    assert [run["steps"] for run in of["guard-stop"]] == [run["steps"] for run in of["guard-rollback"]] == [10, 11]
    chance = [module.end(run) for run in of["random"]]
    large = [row for row in of if not row.endswith(RATES[1:])]
    above = {row for row in large if all(module.end(run) > end for run, end in zip(of[row], chance, strict=True))}
    assert above == {"kl-cov-0.1", "votes-kl-cov-0.1", "gold", "alternate-gold"}
    for row, words in REAL_ROWS.items():
        cells = [f" {ends(of[row + rate])} " if row + rate in of else " " for rate in RATES]
        assert f"| {words} |{'|'.join(cells)}|" in PAGE, row
    half = " and ".join(f"{100 * run['curve'][20]:.0f}" for run in of["paper"])
    assert f"is at {half} % at update 20" in PAGE
    assert [module.end(run) for run in of["paper"]] == [0, 0]
    said = "from 81 to 0 % (greedy, two seeds) in 40 updates at a rate of 1e-3, on random numbers to"
    assert f"{said} {' and '.join(f'{100 * module.end(run):.0f}' for run in of['random'])} %" in README
    for rate in RATES[:2]:
        pairs = zip(of["paper" + rate], of["random" + rate], strict=True)
        assert all(module.end(own) < module.end(chance) for own, chance in pairs), "ends below random numbers"
    kept = {row for row, runs in of.items() if min(map(module.kept, runs)) >= module.HELD}
    assert kept == {"paper-1e-4", "floor-cosine-1e-4"}
    shares = " and ".join(f"{100 * module.kept(run):.0f}" for run in of["gold"])
    assert f"gold answers keep {shares} % of their best" in PAGE
    best = max(module.peak(run)[1] for runs in of.values() for run in runs)
    assert proportion(round(64 * best), 64).low < 0.8125, "the best evaluation of all is not clearly above the start"
    advice = " ".join((ROOT / "docs/training.md").read_text(encoding="utf-8").split())
    for row, words in {"floor-cosine": "it is at {}", "floor-cosine-3e-4": "at a third of the rate at {}"}.items():
        paper, own = (
            " and ".join(f"{100 * module.end(run):.0f}" for run in of[name])
            for name in (row.replace("floor-cosine", "paper"), row)
        )
        assert words.format(f"{own} % against {paper} %") in advice
    last, chance, slow, cured = (
        " and ".join(f"{100 * run['sampled']:.0f}" for run in of[row])
        for row in ("likelihood-floor-cosine-3e-4", "random-3e-4", "paper-1e-4", "floor-cosine-1e-4")
    )
    assert f"{last} % of the samples in the last ten updates are right" in PAGE
    assert f"with random numbers at 3e-4 {chance} %. At 1e-4 it is {slow} % with the paper's form, {cured} %" in PAGE
