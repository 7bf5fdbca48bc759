"""Holds docs/evidence.md, and the log's table of bases, to the kept results; draws the figures."""

from __future__ import annotations

import json
import re
from statistics import fmean

import pytest
from support.commands import ROOT
from support.scripts import load

from rlif.comparison.leaderboard import Board
from rlif.comparison.outcomes import run_outcome
from rlif.intervals import Interval, proportion, t_interval

PAGE = " ".join((ROOT / "docs/evidence.md").read_text(encoding="utf-8").split())
LOG = (ROOT / "docs/log.md").read_text(encoding="utf-8")
NAMES = {"self-certainty": "intuitor", "gold": "grpo-gold", "plurality vote": "grpo-pv", "votes": "grpo-pv"}


@pytest.fixture(scope="module")
def boards() -> dict[str, Board]:
    figures = load("scripts/evidence_figures.py")
    return {board.base: board for board in figures.read_bases(ROOT / "results")}


def gains(board: Board, method: str) -> dict[int, float]:
    found = {run.seed: run_outcome(run, board.task) for run in board.runs if run.method == method}
    return {seed: o.end.mean - o.start.mean for seed, o in found.items()}


def points(found: Interval) -> str:
    """Writes a gain as the page does: whole points and their bounds."""
    return f"{100 * found.mean:.0f} [{100 * found.low:.0f}, {100 * found.high:.0f}]".replace("[", "points [", 1)


def bounds(found: Interval) -> str:
    return points(found).replace("points ", "")


def test_the_gains_of_the_page_are_those_of_the_results(boards):
    sure = ("tiny-reasoner", "tiny-short", "tiny-equal")
    own = [t_interval([*gains(boards[base], "intuitor").values()]).within(-1, 1) for base in sure]
    assert f"by {points(own[0])}, {bounds(own[1])} and {bounds(own[2])}" in PAGE
    gold = [t_interval([*gains(boards[base], "grpo-gold").values()]).mean for base in sure]
    assert f"with gold answers by {100 * min(gold):.0f} to {100 * max(gold):.0f}" in PAGE
    lucky = gains(boards["tiny-reasoner"], "random")
    assert sorted(gain > 0.1 for gain in lucky.values()) == [False, False, True]
    pairs = [gain - lucky[seed] for seed, gain in gains(boards["tiny-reasoner"], "intuitor").items()]
    more = t_interval(pairs).within(-1, 1).percent("+").removeprefix("+").replace(" [", " more on average [")
    assert f"three, {100 * max(lucky.values()):.0f} points; self-certainty gains {more}" in PAGE
    unsure = boards["wrong-and-sure-base"]
    assert f"Gold gains {points(t_interval([*gains(unsure, 'grpo-gold').values()]).within(-1, 1))}" in PAGE
    internal = {s.method for s in unsure.standings} - {"grpo-gold", "seed-grpo", "length"}
    assert all(set(gains(unsure, method).values()) == {0.0} for method in internal)


def test_the_other_methods_on_the_two_newer_bases_are_those_of_the_results(boards):
    studies = load("scripts/studies.py")
    rest = [name for name in studies.METHODS if name not in studies.CORE]
    found = {base: [100 * fmean(gains(boards[base], name).values()) for name in rest] for base in studies.BASES}
    assert all(len(gains(boards[base], name)) == 3 for base in studies.BASES for name in rest)
    (short, equal), count = found.values(), len(rest)
    said = (
        f"gains {min(short):.0f} to {max(short):.0f} points on tiny-short and {min(equal):.0f} to {max(equal):.0f} on"
    )
    assert said in PAGE and count == 11 and "each of the other eleven methods" in PAGE
    for base in ("tiny-reasoner", "wrong-and-sure-base"):
        assert max(gains(boards[base], "semantic-entropy").values()) <= 0


def test_the_differences_to_length_and_the_gains_of_format_are_those_of_the_results(boards):
    apart = {}
    for base in ("tiny-reasoner", "tiny-short", "tiny-equal"):
        own, length = (gains(boards[base], method) for method in ("intuitor", "length"))
        apart[base] = t_interval([own[seed] - length[seed] for seed in sorted(own)]).within(-1, 1)
    low, high = (100 * bound for bound in (apart["tiny-reasoner"].low, apart["tiny-reasoner"].high))
    assert f"{100 * apart['tiny-reasoner'].mean:.0f} points less [{-high:.0f}, {-low:+.0f}]" in PAGE
    for base in ("tiny-short", "tiny-equal"):
        mean, both = bounds(apart[base]).split(" ", 1)
        assert re.search(rf"{mean} (points )?more (than length )?{re.escape(both)}", PAGE), base
    shown = [
        t_interval([*gains(boards[base], "format").values()]).within(-1, 1) for base in ("tiny-short", "tiny-equal")
    ]
    assert f"does, too: {points(shown[0])} and {bounds(shown[1])}" in PAGE


def test_the_logs_table_of_bases_is_that_of_the_results(boards):
    table = LOG.partition("| reward | tiny-short | tiny-equal |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) == 8
    for name, *cells in rows:
        for base, cell in zip(("tiny-short", "tiny-equal"), cells, strict=True):
            values = gains(boards[base], NAMES.get(name, name))
            found = t_interval([*values.values()]).within(-1, 1)
            if "0 % on three seeds" in cell:
                assert len(set(values.values())) == 1 and cell.startswith(f"{100 * found.mean:+.1f}"), (name, base)
            else:
                assert cell == found.percent("+"), (name, base)


def test_the_numbers_of_the_floor_are_those_of_the_results():
    runs = json.loads((ROOT / "results/floor-long.json").read_text(encoding="utf-8"))
    curves = {
        form: [
            {int(step): 100 * look["mean"] for step, look in run["curve"].items()}
            for run in runs
            if (run["signal"], run["form"]) == ("self_certainty", form)
        ]
        for form in ("group_std", "group_std_floor")
    }
    held = [curve[200] for curve in curves["group_std_floor"]]
    assert f"all five are at {min(held):.0f} to {max(held):.0f} % at step 200" in PAGE
    falls = sorted(curve[200] - curve[350] for curve in curves["group_std_floor"])
    assert f"two of five fall by {falls[-2]:.0f} and {falls[-1]:.0f} points" in PAGE and falls[-3] < 6
    assert all(curve[200] < 0.7 * max(curve.values()) for curve in curves["group_std"])


def test_the_counts_of_the_limit_on_kl_are_those_of_the_results():
    rows = json.loads((ROOT / "results/guard-relative.json").read_text(encoding="utf-8"))["limits"]
    (row,) = [row for row in rows if (row["reading"], row["limit"]) == ("nats", 0.045)]
    for a, b, words in (
        ("false_stops", "kept", "stops {} of {} runs that kept their accuracy ({})"),
        ("hits", "lost", "finds {} of {} that lost it ({})"),
    ):
        share = proportion(row[a], row[b])
        said = f"{100 * share.mean:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
        assert words.format(row[a], row[b], said) in PAGE


def test_the_figures_are_drawn(tmp_path):
    figures = load("scripts/evidence_figures.py")
    for name, draw in figures.FIGURES.items():
        draw(ROOT / "results", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_the_numbers_of_the_probe_are_those_of_the_results():
    probe = load("scripts/real_probe.py")
    families = json.loads((ROOT / "results/real-probe.json").read_text(encoding="utf-8"))["families"]
    of = {family["family"]: family for family in families}

    def percent(found: dict) -> str:
        return f"{100 * found['mean']:.0f} % [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"

    def split(found: dict) -> tuple[str, str]:
        return f"{100 * found['mean']:.0f} %", f"[{100 * found['low']:.0f}, {100 * found['high']:.0f}]"

    share, both = split(of["steps"]["accuracy"])
    assert f"On sums step by step {share} of the samples are right {both}" in PAGE
    assert f"has more self-certainty in {percent(of['steps']['auroc']['self_certainty'])}" in PAGE
    (surest, first), (most, second) = split(of["steps"]["surest"]), split(of["steps"]["maj@8"])
    assert f"is right on {surest} of the problems {first}, the most frequent answer on {most} {second}" in PAGE
    assert f"the surer one in {percent(of['yes_no']['auroc']['self_certainty'])}" in PAGE
    assert f"is right on {percent(of['yes_no']['surest'])}, one sample on {percent(of['yes_no']['accuracy'])}" in PAGE
    own, other = (probe.over_families(families, name).within(0, 1) for name in ("self_certainty", "likelihood"))
    assert f"AUROC is {own.mean:.2f} [{own.low:.2f}, {own.high:.2f}] for self-certainty and {other.mean:.2f}" in PAGE
    correlation, count = probe.pull_and_auroc(families, "self_certainty")
    assert f"families is {correlation:+.2f} (n = {count})" in PAGE
    alone = json.loads((ROOT / "results/real-probe-alone.json").read_text(encoding="utf-8"))["families"]
    before, number = probe.pull_and_auroc(alone, "self_certainty")
    assert f"it was {before:+.2f} (n = {number})" in PAGE


FAMILIES = (("steps", "sums step by step"), ("story", "sums in words"))


@pytest.fixture(scope="module")
def real() -> dict:
    return json.loads((ROOT / "results/real.json").read_text(encoding="utf-8"))


def real_runs(real: dict, family: str, method: str) -> list[dict]:
    """Gives the runs of one family and method on seeds 0, 1, 2."""
    runs = [run for run in real["runs"] if (run["family"], run["method"]) == (family, method)]
    assert [run["seed"] for run in runs] == [0, 1, 2], (family, method)
    return runs


def test_the_tables_of_the_real_model_are_those_of_the_results(real):
    columns = ("self-certainty", "likelihood", "votes", "random", "length", "gold")
    assert f"| held-out problems | before | {' | '.join(columns)} |" in PAGE
    assert "| family | the start | likelihood | votes | random | length | gold | greedy answers of the base |" in PAGE
    for family, words in FAMILIES:
        before = real["bases"][family]["accuracy"]
        ends = {c: [r["sampled"]["mean"] for r in real_runs(real, family, NAMES.get(c, c))] for c in columns}
        cells = [f"{100 * before['mean']:.0f} % [{100 * before['low']:.0f}, {100 * before['high']:.0f}]"]
        cells += [", ".join(f"{100 * share:.0f}" for share in ends[column]) + " %" for column in columns]
        assert f"| {words} | {' | '.join(cells)} |" in PAGE, " | ".join(cells)
        own = real_runs(real, family, "intuitor")
        greedy = [next(iter(run["greedy"].values()))["mean"] for run in own]
        others = [[before["mean"]] * 3, *(ends[column] for column in columns[1:]), greedy]
        apart = [t_interval([a - b for a, b in zip(ends["self-certainty"], of, strict=True)]) for of in others]
        cells = [found.within(-1, 1).percent("+") for found in apart]
        assert f"| {words} | {' | '.join(cells)} |" in PAGE, " | ".join(cells)
        assert all(a > b for a, b in zip(ends["self-certainty"], ends["random"], strict=True)), "six runs of six"
        assert all(a > b for a, b in zip(ends["likelihood"], ends["random"], strict=True))
        gain = t_interval([share - before["mean"] for share in ends["likelihood"]]).within(-1, 1)
        low, high = gain.percent("+").split(" ", 1)
        assert f"{low.lstrip('+')} {'points ' * (family == 'steps')}{high}" in PAGE


def test_what_the_real_model_loses_and_keeps_is_that_of_the_results(real):
    changes: dict[str, list[str]] = {"pass@8": [], "greedy": [], "kept": []}
    entropy = []
    for family, _ in FAMILIES:
        own = real_runs(real, family, "intuitor")
        looks = {name: [[share["mean"] for share in run[name].values()] for run in own] for name in ("greedy", "kept")}
        start = real["bases"][family]["pass@k"]["8"]["mean"]
        looks["pass@8"] = [[start, run["pass@8"]["mean"]] for run in own]
        for name, shares in looks.items():
            changes[name].append(t_interval([look[-1] - look[0] for look in shares]).percent("+"))
        ends = [(fmean(run["entropy"][:3]), fmean(run["entropy"][-3:])) for run in own]
        assert all(last < first for first, last in ends), "six runs of six"
        entropy += [f"{fmean(values):.2f}" for values in zip(*ends, strict=True)]
    steps, story = f"{entropy[0]} to {entropy[1]} nats", f"{entropy[2]} to {entropy[3]} on sums in words"
    assert f"from {steps} a token on sums step by step and from {story}" in PAGE
    passed, greedy, kept = changes.values()
    said = f"{passed[0].replace(' ', ' points ', 1)} and {passed[1]}, greedy accuracy by"
    assert f"pass@8 changes by {said} {greedy[0]} and {greedy[1]}." in PAGE
    assert f"by {kept[0].replace(' ', ' points ', 1)} after training on sums step by step, by {kept[1]} after" in PAGE
    falls = [
        100 * (real["bases"][family]["accuracy"]["mean"] - run["sampled"]["mean"])
        for family, _ in FAMILIES
        for run in real_runs(real, family, "random")
    ]
    assert f"takes {min(falls):.0f} to {max(falls):.0f} points of the base away" in PAGE


def test_the_cooler_base_of_the_page_is_that_of_the_results(real):
    cool = [real["bases"][family]["cooler"]["0.5"] for family, _ in FAMILIES]
    (steps, first), (story, second) = (
        (f"{100 * a['mean']:.0f} %", f"[{100 * a['low']:.0f}, {100 * a['high']:.0f}]")
        for a in (scores["accuracy"] for scores in cool)
    )
    assert f"has {steps} right samples on sums step by step {first} and {story} on sums in words {second}" in PAGE
    own = [
        t_interval([run["sampled"]["mean"] for run in real_runs(real, family, "intuitor")]).within(0, 1)
        for family, _ in FAMILIES
    ]
    steps, story = (bounds(found) for found in own)
    assert f"after training it is {steps} and {story.replace(' ', ' % ', 1)} at temperature 1" in PAGE
    base = [100 * scores["pass@k"]["8"]["mean"] for scores in cool]
    after = [100 * fmean(r["pass@8"]["mean"] for r in real_runs(real, family, "intuitor")) for family, _ in FAMILIES]
    assert f"Its pass@8 is then {base[0]:.0f} and {base[1]:.0f} %, against {after[0]:.0f} and {after[1]:.0f} %" in PAGE


def test_the_appended_solution_is_as_sure_as_the_results_say():
    kept = json.loads((ROOT / "results/appended-confidence.json").read_text(encoding="utf-8"))
    found = kept.pop("goes-on-base")
    assert {of["both above alone"] for of in kept.values()} == {0}
    said = f"Of {found['problems']} worked solutions {found['both above alone']} have more self-certainty if they go on"
    assert said in PAGE
    shown = [f"{found[part]:.2f}" for part in ("both", "solution alone", "appended solution")]
    assert f"{shown[0]} nats a token against {shown[1]}, and {shown[2]} for the appended part" in PAGE


def test_the_criteria_of_the_page_are_those_of_the_results(real):
    module = load("scripts/real_results.py")
    rows = module.criteria(real)
    numbers = ("none", "one", "two", "three", "four")
    steps, story = (numbers[len(module.fulfilled(rows, family))] for family, _ in FAMILIES)
    assert f"Sums step by step fulfil {steps} of four, sums in words {story} of four" in PAGE


def test_the_numbers_of_the_forecast_are_those_of_the_results(boards):
    module = load("scripts/forecast_results.py")
    found = json.loads((ROOT / "results/forecast.json").read_text(encoding="utf-8"))
    points = module.all_points(ROOT / "results", found)

    def rose(some: list[dict]) -> int:
        return sum(module.side(point["gain"], 0) == "up" for point in some)

    def above(name: str, yes: bool = True) -> list[dict]:
        return [point for point in points if point[name] and (module.side(point[name]) == "up") == yes]

    rho, count = module.rank_correlation(points, "auroc")
    assert f"has a rank correlation of {rho:+.2f} with the change ({count} points)" in PAGE
    sure, others = above("auroc"), above("auroc", yes=False)
    assert f"rose clearly on {rose(sure)} of the {len(sure)} points" in PAGE
    assert f"and on none of the {len(others)} others" in PAGE and rose(others) == 0
    rho, count = module.rank_correlation(points, "pull")
    sure = above("pull")
    wrong = [point for point in sure if point["base"] == "wrong-and-sure-base"]
    assert f"has {rho:+.2f} ({count} points). Of {len(sure)} points" in PAGE
    assert f"above 0.5, {rose(sure)} rose clearly" in PAGE
    assert f"Ten of the other {len(sure) - rose(sure)} are on wrong-and-sure-base" in PAGE
    real = [point for point in above("auroc") if point["base"].startswith("SmolLM2")]
    small = [point for point in above("auroc") if point not in real]
    counts = f"{rose(small)} of {len(small)} on the miniatures and {rose(real)} of {len(real)} on SmolLM2"
    assert f"clearly above 0.5, {counts}" in PAGE
    assert rose(wrong) == 0 and len(wrong) == 10
    rho, count = module.rank_correlation([p for p in points if p["base"] != "wrong-and-sure-base"], "pull")
    assert f"it is {rho:+.2f} ({count} points)" in PAGE
    alone = [point for point in points if point["base"].startswith("SmolLM2")]
    (pull, fewer), (auroc, more) = (module.rank_correlation(alone, name) for name in ("pull", "auroc"))
    assert f"have {pull:+.2f} by the pull ({fewer} points) and {auroc:+.2f} by AUROC ({more} points)" in PAGE
    first = [point for point in alone if point["base"] in ("SmolLM2, steps", "SmolLM2, story")]
    pull, auroc = (module.rank_correlation(first, name)[0] for name in ("pull", "auroc"))
    assert f"With the first two alone it was {pull:+.2f} and {auroc:+.2f}" in PAGE
    lost = {(p["base"], p["reward"]) for p in above("auroc") if module.side(p["gain"], 0) == "down"}
    assert lost == {("tiny-short", "shortness"), ("SmolLM2, story", "length"), ("SmolLM2, larger", "likelihood")}
    shortness = [run_outcome(run, "clock") for run in boards["tiny-short"].runs if run.method == "shortness"]
    best, end = fmean(o.best.mean for o in shortness), fmean(o.end.mean for o in shortness)
    assert f"a reward for shortness rises to {100 * best:.0f} % and ends at {100 * end:.0f} %" in PAGE


def test_the_forecasts_written_down_before_their_runs_are_those_of_the_results(real):
    found, true = json.loads((ROOT / "results/forecast.json").read_text(encoding="utf-8")), []
    log = " ".join((ROOT / "docs/log.md").read_text(encoding="utf-8").split())

    def shares(family: str, method: str, name: str = "sampled") -> list[float]:
        return [100 * run[name]["mean"] for run in real_runs(real, family, method)]

    for family, words in (("larger", "the larger of two numbers"), ("capital_city", "capitals, one of A, B, C")):
        before = real["bases"][family]["accuracy"]
        cells = [f"{100 * before['mean']:.0f} % [{100 * before['low']:.0f}, {100 * before['high']:.0f}]"]
        for method, signal in (("intuitor", "self_certainty"), ("likelihood", "likelihood")):
            pull, ends = found[f"SmolLM2, {family}"]["pull"][signal], shares(family, method)
            cells.append(", ".join(f"{share:.0f}" for share in ends) + f" % ({pull['mean']:.2f})")
            name = signal.replace("_", "-")
            assert f"| {family} | {name} | {pull['mean']:.2f} [{pull['low']:.2f}, {pull['high']:.2f}] |" in log
            apart = fmean(ends) - fmean(shares(family, "random"))
            true += [(family, method, f"{abs(apart):.1f}")] * (apart * (pull["mean"] - 0.5) > 0)
            pairs = zip(ends, shares(family, "random"), strict=True)
            low, high = (lambda found: (found.low, found.high))(t_interval([a - b for a, b in pairs]))
            assert low < 0 < high and all(share < 100 * before["mean"] for share in ends)
        cells.append(", ".join(f"{share:.0f}" for share in shares(family, "random")) + " %")
        assert f"| {words} | {' | '.join(cells)} |" in PAGE, " | ".join(cells)
    numbers = [("larger", "intuitor", "0.1"), ("larger", "likelihood", "0.1")]
    assert true == [*numbers, ("capital_city", "intuitor", "2.9")]
    both = zip(*(shares("capital_city", method) for method in ("random", "intuitor")), strict=True)
    fall = t_interval([a - b for a, b in both])
    said = f"the fall with self-certainty on capitals, by {fall.mean:.1f} points [{fall.low:.1f}, {fall.high:+.1f}]"
    assert said in PAGE
    assert f"Gold answers teach the numbers: {', '.join(f'{x:.0f}' for x in shares('larger', 'grpo-gold'))} %" in PAGE
    base = 100 * real["bases"]["larger"]["pass@k"]["8"]["mean"]
    (after,) = {x for method in ("intuitor", "likelihood") for x in shares("larger", method, "pass@8")}
    assert f"pass@8 falls from {base:.0f} to {after:.0f} %, on six runs of six" in PAGE
    chance = [f"{x:.0f}" for x in shares("larger", "random", "pass@8")]
    assert f"with a pass@8 of {chance[0]}, {chance[1]} and {chance[2]} %" in PAGE


def test_what_the_guards_signs_find_is_that_of_the_results(tmp_path, monkeypatch, real):
    monkeypatch.setattr("sys.argv", ["guard_signs", "--results", str(ROOT / "results"), "--out", str(tmp_path)])
    load("scripts/guard_signs.py").main()
    for name in ("guard-signs.json", "guard-signs.md"):
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / "results" / name).read_text(encoding="utf-8")
    rows = json.loads((tmp_path / "guard-signs.json").read_text(encoding="utf-8"))
    of = {(row["pace"], row["sign"], row["model"]): row for row in rows}
    kl, slope, others = (
        of["as shipped", sign, "miniatures"] for sign in ("kl", "kl_slope", "every alarm but those on KL")
    )
    sums, position, pull = (
        "SmolLM2, sums, 8 steps",
        "SmolLM2, numbers and capitals, 8 steps",
        "`pull` alone stops or finds",
    )
    slow, all_of = (of["as shipped", sign, sums] for sign in ("kl_slope", "every alarm"))
    fast, elsewhere = of["short", "every alarm", sums], of["as shipped", "every alarm", position]
    starts = {family: real["bases"][family]["accuracy"]["mean"] for family in ("larger", "capital_city")}
    worse = sum(run["sampled"]["mean"] < starts.get(run["family"], 0) for run in real["runs"])
    stops = f"`kl` stops {kl['false stops']} of {kl['kept']} and"
    assert f"{stops} finds {kl['hits']} of {kl['lost']}, `kl_slope` stops {slope['false stops']} and" in PAGE
    assert f"`kl_slope` stops {slope['false stops']} and finds {slope['hits']}." in PAGE
    few = of["as shipped", "pull", "miniatures"]
    assert (others["false stops"], others["hits"]) == (few["false stops"], few["hits"])
    assert all(slow[what] == all_of[what] for what in ("hits", "false stops"))
    said = f"all alarms together find {all_of['hits']} of {all_of['lost']} losses of greedy accuracy [16, 75] and stop"
    assert f"{said} {all_of['false stops']} of {all_of['kept']} runs that kept it, by `kl_slope`" in PAGE
    said = f"stop {elsewhere['false stops']} of {elsewhere['kept']}; of these {elsewhere['kept']}, whose greedy"
    assert f"{said} answers stay, {worse} end with fewer right samples" in PAGE
    assert f"find {fast['hits']} of {fast['lost']} and stop {fast['false stops']} of {fast['kept']}" in PAGE
    long, slow, most = (of["as shipped", sign, "SmolLM2, sums, 40 steps"] for sign in ("kl", "pull", "every alarm"))
    said = f"`kl` finds {long['hits']} of {long['lost']} and stops {long['false stops']} of {long['kept']} that kept"
    assert f"{said} their accuracy, `pull` finds {slow['hits']} and stops {slow['false stops']}" in PAGE
    guard = " ".join((ROOT / "docs/monitoring.md").read_text(encoding="utf-8").split())
    counts = f"{few['false stops']} of {few['kept']} and {few['hits']} of {few['lost']}, where it was logged"
    assert f"{pull} any: {counts}" in PAGE and f"{pull} any of these: {counts}" in guard
    assert f"{stops} `kl_slope` {slope['false stops']}." in guard
    assert f"they find {kl['hits']} and {slope['hits']} of {kl['lost']}" in guard
    controls = f"{others['hits on controls']} of {others['controls']} runs rewarded with length, shortness or form"
    assert f"The others find {controls}" in guard
    total = all_of["kept"] + all_of["lost"] + all_of["controls"]
    said = f"Of {total} runs on sums with eight steps all alarms find {all_of['hits']} of {all_of['lost']} losses"
    assert f"{said} and stop {all_of['false stops']} of {all_of['kept']} that kept it" in guard
    said = f"of {elsewhere['kept']} on numbers and capitals, which all kept it, they stop {elsewhere['false stops']}."
    assert said in guard and elsewhere["lost"] == 0
    total = most["kept"] + most["lost"] + most["controls"]
    said = f"Of {total} with 40 steps they find {most['hits']} of {most['lost']} losses"
    assert said in guard and f"and stop {most['false stops']} of {most['kept']} that kept it" in guard
    pull = json.loads((ROOT / "results/guard-pull.json").read_text(encoding="utf-8"))
    (row,) = [row for row in pull["rules"] if (row["window"], row["limit"]) == (5, 0.15)]
    count = {3: "three", 6: "six", 8: "eight"}
    said = f"none of {row['kept']} that kept their accuracy, and is raised on {count[len(row['had'])]} of"
    assert row["false_stops"] == 0 and said in guard
    assert f"of {count[row['lost']]} that lost it, in time on {count[row['hits']]}" in guard
