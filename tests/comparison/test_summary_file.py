"""Tests the file of a comparison: small, free of the machine, read again to the last byte, refused if damaged."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.folders import graded_run

import rlif
from rlif.comparison.checks import check_seeds
from rlif.comparison.comparison import compare
from rlif.comparison.summary import portable_recipe
from rlif.comparison.summary_file import read_summaries
from rlif.comparison.table import FORMATS
from rlif.config.recipe import Recipe


@pytest.fixture
def runs(tmp_path) -> Path:
    """Makes two methods on different seeds."""
    for method, seeds in (("steady", (0, 1, 3)), ("brief", (0, 1, 2))):
        for seed in seeds:
            reward = "self_certainty" if method == "steady" else "likelihood"
            graded_run(tmp_path / "runs" / f"{method}-seed{seed}", seed, 0.1, 0.5, 0.8 - seed / 10, reward=reward)
    return tmp_path / "runs"


def test_runs_and_their_file_give_the_same_bytes(runs, tmp_path):
    first = compare([runs], against="steady", command="rlif compare runs")
    kept = tmp_path / "kept.json"
    kept.write_text(FORMATS[".json"](first))
    for other in (compare([runs], against="steady", command="rlif compare runs"), compare([kept])):
        assert {end: make(first) for end, make in FORMATS.items()} == {e: make(other) for e, make in FORMATS.items()}


def test_a_file_is_small_and_names_nothing_of_the_machine(runs, tmp_path):
    model = str(tmp_path / "somewhere" / "base")
    path = graded_run(tmp_path / "own" / "seed5", 5, 0.1, 0.5, 0.9, model=model)
    text = FORMATS[".json"](compare([path]))
    assert str(tmp_path) not in text and '"model": "base"' in text
    assert portable_recipe({"training": {"max_grad_norm": float("inf")}}) == {"training": {"max_grad_norm": "inf"}}
    assert len(text) < 8000
    found = json.loads(text)
    assert found["runs"][0]["method"] == "own" and found["runs"][0]["metrics"]["step"] == list(range(1, 9))
    assert found["rows"][0]["change"] == pytest.approx(0.8)


def values_in(value, place=()):
    yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from values_in(inner, (*place, key))


def test_a_damaged_file_is_refused_in_one_sentence(runs, tmp_path):
    good = FORMATS[".json"](compare([runs / "steady-seed0", runs / "steady-seed1"]))
    places, rng, refused = [p for p in values_in(json.loads(good)) if p], random.Random(0), 0
    kept = tmp_path / "kept.json"
    for place in rng.sample(places, 80):
        damaged = json.loads(good)
        *parents, last = place
        inner = damaged
        for key in parents:
            inner = inner[key]
        inner[last] = rng.choice([None, [], {}, "x", -1, 1e308, [[]]])
        kept.write_text(json.dumps(damaged))
        try:
            found = compare([kept])
            assert all(make(found) for make in FORMATS.values())
        except rlif.RlifError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10
    without_step = re.sub(r'"step": \[0, ', '"step": [null, ', good)
    assert without_step != good
    for text in ("", "[]", "{}", good[:-100], '{"runs": 3}', without_step):
        kept.write_text(text)
        with pytest.raises(rlif.RlifError, match=r"is not a file that `rlif compare --out FILE.json` wrote \(it"):
            read_summaries(kept)


def test_a_key_that_is_newer_than_the_file_has_its_default(tmp_path):
    """An older file and a run of today are seeds of one method, without a difference."""
    kept = Path(__file__).parents[2] / "results/demo.json"
    file = json.loads(kept.read_text())
    for recipe in file["methods"].values():
        assert recipe.pop("spread_floor", None) == Recipe().spread_floor
    (tmp_path / "old.json").write_text(json.dumps(file))
    old, new = (read_summaries(path)[0][0] for path in (tmp_path / "old.json", kept))
    assert "spread_floor" not in old.recipe and old.whole["spread_floor"] == 0.4
    check_seeds({"demo": [old, replace(new, seed=9)]})


@pytest.mark.parametrize("step", [2.5, -1, 1e300, True, "3", None])
@pytest.mark.parametrize("place", ["curves", "metrics", "steps"])
def test_a_step_that_is_not_a_whole_number_is_refused(place, step, tmp_path):
    file = json.loads((Path(__file__).parents[2] / "results/demo.json").read_text())
    run, path = file["runs"][0], tmp_path / "odd.json"
    if place == "steps":
        run["steps"] = step
    else:
        (run["metrics"] if place == "metrics" else run["curves"]["clock"])["step"][1] = step
    path.write_text(json.dumps(file))
    with pytest.raises(rlif.RlifError, match=r"odd.json is not a file that `rlif compare --out FILE.json` wrote"):
        read_summaries(path)


def test_steps_out_of_order_are_refused(tmp_path):
    """A step that is there twice would hide the first of its rows."""
    text, path = (Path(__file__).parents[2] / "results/demo.json").read_text(), tmp_path / "odd.json"
    for steps in ([0, 3, 3, 9, 12], [0, 3, 9, 6, 12]):
        file = json.loads(text)
        file["runs"][0]["curves"]["clock"]["step"] = steps
        path.write_text(json.dumps(file))
        with pytest.raises(rlif.RlifError, match=r"odd.json is not a file that"):
            read_summaries(path)


@pytest.mark.parametrize(
    "name", ["demo", "demo-long", "fresh-seeds/demo", "fresh-seeds/demo-long", "miniature", "wrong-and-sure"]
)
def test_the_files_of_results_give_their_tables(name):
    """`rlif compare results/demo.json` makes results/demo.md, to the last byte."""
    place = Path(__file__).parents[2] / "results" / name
    found = compare([place.with_suffix(".json")])
    assert FORMATS[".md"](found) == place.with_suffix(".md").read_text()
    assert FORMATS[".json"](found) == place.with_suffix(".json").read_text()


def test_results_name_no_folder_of_the_machine_that_made_them():
    found = sorted((Path(__file__).parents[2] / "results").rglob("*.json"))
    assert len(found) > 10
    assert [path.name for path in found if re.search(r'"folder": ?"/', path.read_text())] == []


IN_THE_LOG = {
    "GRPO with gold": "grpo-gold",
    "Intuitor, offline annotator": "offline",
    "Intuitor, KL weight 0.005": "intuitor-beta-0.005",
    "Intuitor, KL weight 0": "intuitor-beta-0",
    "semantic entropy, by words": "semantic-entropy",
    "SEED-GRPO, with gold": "seed-grpo",
}


def test_the_logs_table_of_the_miniature_agrees_with_its_file():
    """Every method and number of the hand-typed table is compared."""
    root = Path(__file__).parents[2]
    rows = {(row.method, row.task): row for row in compare([root / "results/miniature.json"]).rows}
    table = (root / "docs/log.md").read_text().partition("| method | clock (trained on) | minus gold |")[2]
    typed = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.partition("\n\n")[0].splitlines()[3:]
    ]
    names = [IN_THE_LOG.get(name, name.lower().replace(",", "").replace(" ", "-")) for name, *_ in typed]
    assert sorted(names) == sorted({method for method, _ in rows})
    for name, (_, clock, minus, cups) in zip(names, typed, strict=True):
        for cell, task in ((clock, "clock"), (cups, "cups")):
            assert cell.startswith(f"{100 * rows[name, task].end:.1f} %"), (name, task)
        against = rows[name, "clock"].against
        assert minus == (against.percent("+") if against else ""), name
