"""Tests the scripts behind results/: their recipes, which runs they start, and their tables."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.commands import ROOT
from support.scripts import load

import rlif
from rlif.config.recipe import Recipe


def differing(one: Recipe, other: Recipe) -> set[str]:
    return {key for key in Recipe.model_fields if getattr(one, key) != getattr(other, key)}


def changed(one: Recipe, other: Recipe) -> set[str]:
    """Names the keys of `training` that differ."""
    return {key for key in one.training | other.training if one.training.get(key) != other.training.get(key)}


def test_methods_of_the_miniature_study_differ_in_one_key():
    studies = load("scripts/studies.py")
    base = rlif.load_recipe(studies.RECIPE)
    rows = {name: rlif.load_recipe(studies.RECIPE, row) for name, row in studies.STUDIES["miniature"].rows.items()}
    assert rows.pop("intuitor") == base and base.resolved_normalisation == "group_std"
    for name, recipe in rows.items():
        assert len(differing(base, recipe) - {"equivalence", "confidence_window"}) == 1, name


def test_the_forms_of_the_floor_study_differ_only_in_the_normalisation():
    studies = load("scripts/studies.py")
    rows = {name: rlif.load_recipe(studies.RECIPE, row) for name, row in studies.STUDIES["floor"].rows.items()}
    for signal in studies.FLOOR_SIGNALS:
        assert differing(rows[f"{signal}-group_std"], rows[f"{signal}-group_std_floor"]) == {"normalisation"}
        assert rows[f"{signal}-group_std"].weights["accuracy"].ever is False


@pytest.mark.parametrize(("study", "steps"), [("cures", 100), ("cures-long", 200)])
def test_cures_differ_from_the_papers_form_in_the_keys_that_they_are_named_after(study, steps):
    studies = load("scripts/studies.py")
    rows = {name: rlif.load_recipe(studies.RECIPE, row) for name, row in studies.STUDIES[study].rows.items()}
    paper = rows.pop("paper")
    assert paper.resolved_normalisation == "group_std" and paper.weights["accuracy"].ever is False
    for name, recipe in rows.items():
        changed = differing(paper, recipe)
        assert changed and (
            "training" not in changed or {"cov", "updates", "rollback", "cosine"} & {*name.split("-")}
        ), name
        assert recipe.resolved_training["max_steps"] == steps
        twice = recipe.training.get("num_iterations") == 2
        assert twice == (name == "two-updates" or "kl-cov" in name), name


def cure(row: str, seed: int, *shares: float, study: str = "cures") -> dict:
    """Makes what the results keep of a run of the cures."""
    return {"study": study, "row": row, "seed": seed, "curve": dict(zip((0, 20, 40, 100), shares, strict=True))}


def test_the_table_of_cures_says_what_is_kept():
    results = load("scripts/cures_results.py")
    floors = [cure("floor", 0, 0.1, 0.9, 0.8, 0.81), cure("floor", 1, 0.1, 0.8, 0.9, 0.9)]
    runs = [cure("rank", 0, 0.1, 0.8, 0.7, 0.4), cure("rank", 1, 0.1, 0.5, 0.6, 0.6), *floors]
    assert [results.peak(each) for each in runs] == [(20, 0.8), (40, 0.6), (20, 0.9), (40, 0.9)]
    assert [results.kept(each) for each in runs] == [0.5, 1.0, 0.9, 1.0]
    _, ruled, *lines = results.table(runs)
    assert ruled.startswith("|---")
    assert lines[0] == "| floor | 0, 1 | 10.0 | 90.0 | 20, 40 | 10, 0 | 81, 90 | 95.0 [31.5, 100.0] | 1 of 2 |  |"
    # paired by seed: -41 and -30 points
    assert lines[1].startswith(
        "| rank | 0, 1 | 10.0 | 70.0 [0.0, 100.0] | 20, 40 | 40, 0 | 40, 60 | 75.0 [0.0, 100.0] | 1 of 2 | -35.5"
    )
    assert results.joined(runs, [cure("rank", 1, 0.1, 0.9, 0.9, 0.9)])[3]["curve"][100] == 0.9
    long = cure("floor", 0, 0.1, 0.9, 0.9, 0.3, study="cures-long")
    assert len(results.joined(runs, [long])) == 5, "a run of the long study replaces none of the other"
    page = results.page([*runs, long])
    assert "end minus floor" not in "".join(results.table([cure("rank", 0, 0.1, 0.8, 0.7, 0.4)]))
    assert page.count("| floor |") == 2 and "cures-long" in page and "cures-long" not in results.page(runs)


def test_a_study_starts_only_missing_runs(monkeypatch, tmp_path):
    studies, trained = load("scripts/studies.py"), []
    monkeypatch.setattr(studies.rlif, "train", lambda recipe, console: trained.append((recipe.name, recipe.seed)))
    done = tmp_path / "miniature" / "random-seed1"
    done.mkdir(parents=True)
    (done / "summary.json").write_text("{}")
    rows = {name: studies.STUDIES["miniature"].rows[name] for name in ("format", "random")}
    studies.run_rows(rows, range(1, 3), tmp_path / "miniature")
    assert trained == [("format-seed1", 1), ("format-seed2", 2), ("random-seed2", 2)]


def test_differences_of_the_floor_study_use_seeds_of_both_forms():
    def run(form: str, seed: int, mean: float) -> dict:
        curve = {0: {"mean": 0.1}, 20: {"mean": 0.8}, 100: {"mean": mean}}
        found = {"signal": "likelihood", "form": form, "seed": seed, "peak": 0.9, "peak_step": 10, "curve": curve}
        return found | {"collapsed": 60 if mean < 0.5 else None, "spread": [0.5, 0.1]}

    paper, floor = "group_std", "group_std_floor"
    runs = [run(paper, 0, 0.2), run(floor, 0, 0.9), run(paper, 1, 0.6), run(floor, 1, 0.9), run(paper, 2, 0.7)]
    results = load("scripts/floor_results.py")
    first, second = results.rows(runs, (20, 100))
    assert "| 20, 20, 20 | 80%, 80%, 80% | 20%, 60%, 70% | 1 of 3 |" in first
    assert "| 100, 100 | 80%, 80% | 90%, 90% | 0 of 2 |" in second
    (line,) = results.differences(runs, (20, 100, 200))
    assert line.startswith("| `likelihood` | +0.0, n = 2 | +50.0 [-100.0, +100.0]") and line.endswith(", n = 2 | - |")


def test_results_of_deleted_run_folders_are_kept(tmp_path):
    """results/floor.json gives the same table again; a new run replaces the kept one."""
    results, floor = ROOT / "results", load("scripts/floor_results.py")
    runs = floor.with_kept([], results / "floor.json")
    assert floor.table("floor", runs) == (results / "floor.md").read_text(encoding="utf-8")
    again = runs[0] | {"peak": 0.0}
    assert floor.with_kept([again], results / "floor.json") == [again, *runs[1:]]
    assert floor.with_kept([again], tmp_path / "none.json") == [again]


def test_the_kept_runs_of_the_cures_give_their_table_again():
    results, cures, studies = ROOT / "results", load("scripts/cures_results.py"), load("scripts/studies.py")
    runs = cures.joined(cures.kept_runs(results / "cures.json"))
    assert runs and all(run["row"] in studies.STUDIES[run["study"]].rows for run in runs)
    assert cures.page(runs) == (results / "cures.md").read_text(encoding="utf-8")


def test_a_cure_that_the_results_keep_is_trained_again_only_if_asked(tmp_path, monkeypatch, capsys):
    studies = load("scripts/studies.py")
    shares = (0.1, 0.8, 0.8, 0.8)
    kept = [cure("rank", 0, *shares), cure("floor", 1, *shares, study="cures-long")]
    monkeypatch.setattr(studies.cures_results, "kept_runs", lambda file: kept)
    trained = []
    monkeypatch.setattr(studies.rlif, "train", lambda recipe, console: trained.append(recipe.name))
    command = ["studies.py", "cures", "--rows", "rank", "floor", "--seeds", "0", "1", "--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    studies.main()
    assert trained == ["floor-seed0", "floor-seed1", "rank-seed1"]
    assert "rank-seed0 is in results/cures.json; --again trains it again" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--again"])
    studies.main()
    assert "rank-seed0" in trained[3:] and len(trained) == 7


def test_a_row_with_fewer_seeds_runs_on_others_only_if_asked(tmp_path, monkeypatch):
    studies, trained = load("scripts/studies.py"), []
    monkeypatch.setattr(studies.rlif, "train", lambda recipe, console: trained.append(recipe.name))
    command = ["studies.py", "cures-long", "--again", "--rows", "floor", "--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    studies.main()
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "13"])
    studies.main()
    assert trained == ["floor-seed11", "floor-seed12", "floor-seed13"]


def test_online_and_frozen_annotators_differ_in_nothing_else():
    studies = load("scripts/studies.py")
    online, offline = (rlif.load_recipe(studies.FROZEN_RECIPE, row) for row in studies.FROZEN.values())
    assert differing(online, offline) == {"annotator"} and online.resolved_training["beta"] == 0.005
    small, slow = (
        {name: rlif.load_recipe(studies.RECIPE, row) for name, row in rows.items()}
        for rows in (studies.FROZEN_MINIATURE, studies.FROZEN_SLOW)
    )
    for rows in (small, slow):
        assert differing(rows["online"], rows["offline"]) == {"annotator"}
    assert changed(small["online"], slow["online"]) == {"learning_rate", "max_steps"}
    assert differing(small["online"], slow["online"]) == {"training"}


def test_the_signs_of_the_guard_are_counted_on_runs_that_kept_or_lost_accuracy():
    signs = load("scripts/guard_signs.py")
    alarms = {"as shipped": {"kl": 8, "every alarm": 8}}
    kept, lost, late = (
        signs.Case(signs.SMALL, name, kind, near, alarms, frozenset({"kl"}))
        for name, kind, near in (("a", "kept", 30), ("b", "lost", 0), ("c", "lost", -3))
    )
    found = signs.counts([kept, lost, late], "as shipped", "kl")
    shown = {"false stops": 1, "kept": 1, "hits": 1, "lost": 2, "hits on controls": 0, "controls": 0}
    assert found == shown, "an alarm 11 steps after the peak is no hit"
    assert not any(signs.counts([kept, lost], "as shipped", "pull").values()), "what was not logged is not counted"


def test_a_falling_pull_stops_a_run_and_is_a_hit_where_accuracy_was_still_there():
    pull = load("scripts/guard_pull.py")
    shares = {0: 0.1, 20: 0.8, 40: 0.8, 60: 0.4}
    falling = pull.Case("falling", [0.9] * 30 + [0.7] * 30, shares)
    assert (falling.kind, falling.best) == ("lost", 20)
    # from step 34 on the mean of five has at least four low values: 0.9 - 0.74 > 0.15; it takes three in a row
    assert falling.stop(5, 0.15) == 36 and falling.before(36) == 0.8
    kept = pull.Case("kept", [0.9, None] * 30, shares | {60: 0.75})
    assert kept.kind == "kept" and kept.stop(5, 0.15) is None
    early = pull.Case("early", [0.9] * 5 + [0.5] * 55, {0: 0.1, 20: 0.5, 40: 0.8, 60: 0.8})
    found = pull.rates([falling, kept, early], 5, 0.15)
    assert (found["false_stops"], found["kept"], found["hits"], found["lost"], found["had"]) == (1, 2, 1, 1, [1.0])


@pytest.mark.parametrize(
    ("script", "words", "first"),
    [
        ("cures_results", [], "studies.py cures"),
        ("floor_results", ["floor"], "studies.py floor"),
        ("relatives_results", [], "studies.py relatives"),
        ("forecast_results", ["table"], "forecast_results.py draw"),
        ("real_probe", ["table"], "real_probe.py draw"),
        ("real_results", [], "real_study.py"),
        ("frozen_results", [], "studies.py frozen-miniature"),
    ],
)
def test_a_script_without_runs_says_what_to_run_first_and_writes_nothing(
    script, words, first, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [script, *words, "--runs", "nowhere", "--out", "new"])
    with pytest.raises(SystemExit, match="2"):
        load(f"scripts/{script}.py").main()
    assert capsys.readouterr().err.strip().endswith(f"run {first} first")
    assert [*tmp_path.iterdir()] == []


def test_the_recipe_elsewhere_differs_from_it_in_one_key():
    studies = load("scripts/studies.py")
    long, rows = studies.STUDIES["cures-long"].rows, dict(studies.STUDIES["cures-elsewhere"].rows)
    for control in ("paper", "cosine"):
        one, other = (
            rlif.load_recipe(studies.RECIPE, row) for row in (long[control], rows.pop(f"{control}-rate-1e-4"))
        )
        assert differing(one, other) == {"training"} and changed(one, other) == {"learning_rate"}
    recipe = rlif.load_recipe(studies.RECIPE, long["likelihood-floor-cosine"])
    for name, row in rows.items():
        key, value = row[-1].split("=")
        elsewhere = rlif.load_recipe(studies.RECIPE, row)
        assert differing(recipe, elsewhere) == {key.partition(".")[0]} and value.split("/")[-1] in name, name
        assert changed(recipe, elsewhere) <= {key.partition(".")[2]}, name


def test_the_fall_of_a_run_and_whether_it_holds():
    cures = load("scripts/cures_results.py")
    run = {"curve": {0: 0.25, 10: 0.75, 20: 0.25, 30: 1.0}}
    assert (cures.peak(run), cures.fall(run), cures.kept(run), cures.holds(run)) == ((30, 1.0), 0.5, 1, True)
    flat = {"curve": {0: 0.5, 10: 0.5}}
    assert cures.kept(flat) == 1 and not cures.holds(flat), "it gained nothing"
    assert cures.kept({"curve": {0: 0.0, 10: 0.0}}) == 0


def test_a_study_whose_base_is_missing_says_which_script_makes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, said in (
        (["cures-real"], "runs/real-base is not a folder of a model: run real_base.py first"),
        (["frozen-slow"], "run pretrain_reasoner.py --writers goes-on first"),
        (["cures", "--rows", "flor"], "no row is called 'flor'; did you mean 'floor'?"),
    ):
        monkeypatch.setattr("sys.argv", ["studies.py", *words])
        with pytest.raises(SystemExit, match="2"):
            load("scripts/studies.py").main()
        assert capsys.readouterr().err.strip().endswith(said) and not [*tmp_path.iterdir()]


def test_a_script_says_in_one_sentence_what_it_cannot_read(tmp_path, monkeypatch, capsys):
    call = load("scripts/refusals.py").call
    (tmp_path / "cures.json").write_text("[{", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["cures_results.py", "--runs", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        call(load("scripts/cures_results.py").main)
    assert (
        capsys.readouterr().err
        == "cures_results.py: a kept file cannot be read: it is not JSON from line 1, character 3 on.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["cures.json"]


def test_a_closed_pipe_ends_a_script_quietly():
    """As in `python scripts/guard_signs.py | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from refusals import call; call(lambda: print('a line'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_pipe_of_a_child_that_breaks_is_not_silenced():
    code = "from refusals import call\ndef main():\n    raise BrokenPipeError(32, 'of a child')\ncall(main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True)
    assert done.returncode == 1 and "of a child" in done.stderr


@pytest.mark.parametrize("figure", ["cures", "lasting", "keys"])
def test_a_figure_of_cures_without_runs_says_what_to_run_first(tmp_path, figure):
    with pytest.raises(SystemExit, match=r"run cures_results\.py first"):
        load("scripts/evidence_figures.py").FIGURES[figure](tmp_path, tmp_path / "figure.png")
    assert not [*tmp_path.iterdir()]
