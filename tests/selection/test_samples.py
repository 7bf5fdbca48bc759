"""Tests samples: drawn, read, graded and scored; and two commands from end to end."""

from __future__ import annotations

import json
import sys

import pytest
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.cli import main as cli
from rlif.config.recipe import Recipe
from rlif.errors import RlifError
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.selection.samples import GroupSampler, mark_samples, read_samples, score_samples
from rlif.selection.scorer import Scorer

SIGNALS = set(rlif.SIGNALS)


CLOCK = rlif.TASKS["clock"]


def sampler(n):
    scorer = Scorer(tiny_model(), byte_tokenizer(), window=4, batch_size=6)
    return GroupSampler(scorer, CLOCK, Decoding(max_tokens=12, temperature=1.0, n=n))


def test_rows_are_in_order_scored_and_marked():
    problems = CLOCK.load("test", limit=3)
    rows = sampler(4).draw(problems)
    assert [(row["id"], row["sample"]) for row in rows] == [(p.id, i) for p in problems for i in range(4)]
    assert all(row.keys() >= SIGNALS and row["right"] is False and 1 <= row["tokens"] <= 12 for row in rows)
    assert len({row["completion"] for row in rows}) > 3
    assert sampler(4).draw(problems) == rows != sampler(4).draw(problems, number=1)


def test_self_certainty_of_decoding_equals_that_of_a_separate_pass():
    """`score_ids` takes a pass; transformers' sampler reads self-certainty off the logits of decoding."""
    problems = CLOCK.load("test", limit=2)
    mine = sampler(3)
    rows = mine.draw(problems)
    engine = TransformersSampler(mine.scorer.model, mine.scorer.tokenizer, 6)
    decoded = engine.sample(mine._render(problems), mine.decoding)
    assert [row["self_certainty"] for row in rows] == pytest.approx([c.self_certainty for c in decoded], abs=1e-4)


def test_text_has_the_scores_of_its_tokens():
    recipe = Recipe(model="tiny-reasoner")
    scorer = Scorer(load_model(recipe), load_tokenizer(recipe))
    problems = CLOCK.load("test", limit=2)
    rows = GroupSampler(scorer, CLOCK, Decoding(max_tokens=56, temperature=0.3, n=3)).draw(problems)
    given = [{k: row[k] for k in ("id", "completion", "truncated")} for row in rows]
    again = score_samples(given, scorer, CLOCK, {p.id: p for p in problems})
    for row, found in zip(rows, again, strict=True):
        assert {k: found[k] for k in SIGNALS} == pytest.approx({k: row[k] for k in SIGNALS}, abs=1e-4)
    own = [{**row, "prompt": problems[0].text} for row in given[:3]]
    assert [r["likelihood"] for r in score_samples(own, scorer, None, {})] == pytest.approx(
        [row["likelihood"] for row in rows[:3]], abs=1e-4
    )
    with pytest.raises(RlifError, match="has no prompt, and no task was named"):
        score_samples(given, scorer, None, {})


def test_early_stopping_shares_the_warm_up_and_obeys_its_threshold():
    problems = CLOCK.load("test", limit=3)
    warm = sampler(4).draw(problems)
    rows = sampler(10).draw_with_stops(problems, warm, percent=60)
    assert [(row["id"], row["sample"]) for row in rows] == [(p.id, i) for p in problems for i in range(10)]
    for problem in problems:
        mine = [row for row in rows if row["id"] == problem.id]
        lowest = sorted(row["lowest_window_confidence"] for row in mine[:4])
        bar = lowest[1] + 0.8 * (lowest[2] - lowest[1])  # 60 % of the way through four values
        shared = [{k: v for k, v in row.items() if k != "threshold"} for row in mine[:4]]
        assert shared == [row for row in warm if row["id"] == problem.id]
        assert all(row["threshold"] == pytest.approx(bar) for row in mine)
        for row in mine[4:]:
            assert row["stopped"] is (row["tokens"] >= 4 and row["lowest_window_confidence"] < bar)
    assert {row["stopped"] for row in rows} == {True, False}


def test_missing_marks_are_added_and_given_marks_stay():
    task = CLOCK
    problem = task.load("test", limit=1)[0]
    wrong = "The answer is \\boxed{no hour}."
    rows = [
        {"id": problem.id, "completion": problem.solution},
        {"id": problem.id, "completion": wrong},
        {"id": "elsewhere", "completion": wrong, "right": True, "answer": "mine"},
        {"id": problem.id, "completion": wrong, "answer": None},
    ]
    marked = mark_samples(rows, task, {problem.id: problem})
    assert [row["right"] for row in marked] == [True, False, True, False]
    assert [row["answer"] for row in marked] == [problem.gold, "no hour", "mine", None]
    with pytest.raises(RlifError, match="'elsewhere' is to be graded, but clock has no such problem"):
        mark_samples([{"id": "elsewhere", "completion": wrong}], task, {problem.id: problem})


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "x"}, "line 2 of .* has no 'id'"),
        ({"id": "x", "completion": "\ud800"}, "line 2 of .* holds half of a character"),
        ({"id": "x"}, "line 2 of .* has no 'completion'"),
        ({"id": "x", "completion": None}, "completion in line 2 of .* is null"),
        ({"id": "x", "completion": 3}, "'completion' in line 2 of .* is a int; expected str"),
        ({"id": "x", "completion": "x", "answer": 3}, "'answer' in line 2 of .* is a int"),
        ({"id": "x", "completion": "x", "right": "yes"}, "'right' in line 2 of .* is a str; expected bool"),
        ({"id": "x", "completion": "x", "likelihood": "-3"}, "'likelihood' in line 2 of .* is a str"),
    ],
)
def test_bad_samples_are_named_by_their_line(row, message, tmp_path):
    with pytest.raises(RlifError, match=message):
        read_samples(write(tmp_path / "s.jsonl", [{"id": 1, "completion": "x"}, row]))


def test_old_names_of_signals_become_the_new_ones(tmp_path):
    path = write(tmp_path / "s.jsonl", [{"id": 1, "completion": "x", "group_confidence_lowest": 2.0}])
    assert read_samples(path) == [{"id": "1", "completion": "x", "lowest_window_confidence": 2.0}]


def test_numbers_that_are_not_finite_become_none(tmp_path):
    path = write(tmp_path / "s.jsonl", ['{"id": 1, "completion": "x", "self_certainty": NaN, "likelihood": -1}'])
    assert read_samples(path) == [{"id": "1", "completion": "x", "self_certainty": None, "likelihood": -1}]
    with pytest.raises(RlifError, match="has no rows"):
        read_samples(write(tmp_path / "empty.jsonl", []))


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["rlif", *map(str, args)])
    try:
        cli.main()
        code = 0
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_score_from_the_command_line(monkeypatch, capsys, tmp_path, model_folder):
    rows = [{"prompt": "Go.", "completion": "Yes."}, {"prompt": "Go.", "completion": "No."}]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    code, _, err = run(monkeypatch, capsys, "score", source, "-o", out, "-m", model_folder)
    assert code == 0 and "2 rows (0 were there already), 0 unscorable" in err
    assert (
        "2 rows (2 were there already)" in run(monkeypatch, capsys, "score", source, "-o", out, "-m", model_folder)[2]
    )
    for terminal in ("", "1"):  # the bar on a terminal does not take the rows with it
        monkeypatch.setenv("FORCE_COLOR", terminal)
        code, printed, _ = run(monkeypatch, capsys, "score", source, "-m", model_folder)
        assert code == 0 and printed == out.read_text()


def test_select_draws_compares_chooses_and_writes(monkeypatch, capsys, tmp_path, model_folder):
    out = tmp_path / "best"
    drawn = ("-m", model_folder, "-t", "clock", "-n", 6, "--limit", 4, "--max-tokens", 8)
    early = ("--early-stop", "--warm-up", 3, "--window", 2, "--percentile", 60)
    code, printed, err = run(monkeypatch, capsys, "select", *drawn, *early, "-o", out)
    assert code == 0, err
    assert "deepconf_tail_top10" in printed and "pass@N" in printed and "Early stopping:" in printed
    expected = ".lock chosen.jsonl early.jsonl samples.jsonl sampling.json selection.json selection.md selection.png"
    assert {path.name for path in out.iterdir()} == set(expected.split())
    assert len((out / "samples.jsonl").read_bytes().splitlines()) == 24
    report = json.loads((out / "selection.json").read_text())
    assert report["scaling"]["n"] == [1, 2, 4, 6] and report["settings"]["n"] == 6
    assert report["early_stop"]["tokens"]["early"] <= report["early_stop"]["tokens"]["full"]
    code, again, _ = run(monkeypatch, capsys, "select", "--samples", out / "samples.jsonl", "-t", "clock", "--limit", 4)
    assert code == 0 and again.split("Early")[0].strip() == printed.split("Early")[0].strip()


def test_free_form_text_is_picked_by_self_certainty(monkeypatch, capsys, tmp_path, model_folder):
    rows = [{"id": "ode", "prompt": "Write.", "completion": text} for text in ("One.", "Two, three.", "[b]Four[/b]")]
    path = write(tmp_path / "s.jsonl", rows)
    code, printed, _ = run(monkeypatch, capsys, "select", "--samples", path, "-m", model_folder, "-o", tmp_path / "o")
    scored = read_samples(tmp_path / "o" / "samples.jsonl")
    best = max(scored, key=lambda row: row["self_certainty"])
    assert code == 0 and printed.strip() == f"ode {best['completion']}"
    assert json.loads((tmp_path / "o" / "chosen.jsonl").read_text())["completion"] == best["completion"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["select"], "give --model to draw samples from, or --samples"),
        (["select", "-m", "tiny-reasoner"], "give --task"),
        (["select", "-m", "tiny-reasoner", "-t", "clok"], "did you mean 'clock'"),
        (["select", "-m", "tiny-reasoner", "-t", "clock", "--rule", "brda"], "did you mean 'borda'"),
        (["select", "-m", "tiny-reasoner", "-t", "clock", "--power", "-2"], "finite number from 0"),
        (
            ["select", "-m", "tiny-reasoner", "-t", "clock", "--temperature", "0"],
            "16 greedy completions of a prompt would be the same",
        ),
        (["select", "-m", "tiny-reasoner", "-t", "clock", "--early-stop", "-n", "16"], "than the warm-up's 16"),
        (["select", "-m", "tiny-reasoner", "-t", "clock", "--dtype", "int8"], "dtype in the recipe"),
        (["select", "-m", "/nowhere/model", "-t", "clock"], "no such model folder"),
        (["select", "--samples", "nowhere.jsonl"], "no such file: nowhere.jsonl"),
        (["select", "--samples", "empty.jsonl"], "empty.jsonl has no rows."),
        (["select", "--samples", "folder"], "folder is a folder; expected a file of JSON lines."),
        (
            ["select", "--samples", "bytes.jsonl"],
            "line 1 of bytes.jsonl is not JSON: it is not text in UTF-8; save it as UTF-8.",
        ),
        (["select", "--samples", "s.jsonl", "--early-stop"], "--early-stop draws samples"),
        (["select", "--samples", "s.jsonl"], "the rule borda reads self_certainty, which no sample has"),
        (["score", "nowhere.jsonl", "-m", "tiny-reasoner"], "no such file: nowhere.jsonl"),
        (["score", "empty.jsonl", "-m", "tiny-reasoner"], "empty.jsonl has no rows."),
        (["score", "folder", "-m", "tiny-reasoner"], "folder is a folder; expected a file of JSON lines."),
        (["score", "s.jsonl", "-m", "tiny-reasoner"], "line 1 of s.jsonl has no 'prompt'"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(args, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "s.jsonl", [{"id": "x", "completion": "y"}])
    write(tmp_path / "empty.jsonl", [])
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\n")
    (tmp_path / "folder").mkdir()
    code, _, err = run(monkeypatch, capsys, *args, *(["-o", "best"] if args[0] == "select" else []))
    assert not (tmp_path / "best").exists()
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("rlif: ") and message in last and "Traceback" not in err
