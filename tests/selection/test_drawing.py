"""Tests `rlif select --out`: resumed after a kill with the same bytes; other settings are refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from support.killing import rlif_process
from support.sabotage import die_at

from rlif.tasks.prompts import PROMPTS

APPEND = "rlif.files.jsonl:JsonLog.append"
DRAW = ["-t", "clock", "-n", "4", "--limit", "5", "--batch-size", "8", "--max-tokens", "6"]  # three batches
EARLY = ["--early-stop", "--warm-up", "2", "--window", "2", "--percentile", "60"]


def select(model, out, *options, saboteurs=()):
    return rlif_process(["select", "-m", model, *DRAW, *options, "-o", out], out.with_suffix(".log"), *saboteurs)


def content(out):
    """Reads every file of a folder except the figure and the lock, without the folder's own name."""
    return {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in (".jsonl", ".json", ".md")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder):
    out = tmp_path_factory.mktemp("whole") / "out"
    code, printed = select(model_folder, out, *EARLY)
    assert code == 0, printed
    return content(out)


@pytest.mark.daily(every=4)
@pytest.mark.parametrize(
    "kill",
    [
        (die_at, APPEND, 1, "before"),
        (die_at, APPEND, 3, "after"),  # the second batch is in samples.jsonl and not yet in early.jsonl
        (die_at, APPEND, 4, "after"),
        (die_at, "rlif.selection.scaling:report", 1, "before"),
    ],
    ids=["before the first batch", "in the second batch", "between batches", "after the last batch"],
)
def test_a_resumed_select_writes_the_same_bytes(kill, tmp_path, model_folder, whole):
    out = tmp_path / "out"
    code, printed = select(model_folder, out, *EARLY, saboteurs=[kill])
    assert code == -9, printed
    if (out / "samples.jsonl").exists():
        with (out / "samples.jsonl").open("a") as file:
            file.write('{"id": "torn')
    code, printed = select(model_folder, out, *EARLY)
    assert code == 0, printed
    assert content(out) == whole


@pytest.mark.sweep
def test_whole_batches_are_not_drawn_again(tmp_path, model_folder, whole):
    out = tmp_path / "out"
    assert select(model_folder, out, *EARLY)[0] == 0
    draws = (die_at, "rlif.selection.samples:GroupSampler.draw", 1, "before")
    code, printed = select(model_folder, out, *EARLY, saboteurs=[draws])
    assert code == 0, printed
    assert content(out) == whole


@pytest.mark.sweep
def test_other_settings_and_unknown_samples_are_refused(tmp_path, model_folder):
    out = tmp_path / "out"
    assert select(model_folder, out)[0] == 0
    before = content(out)
    for options, named in (
        (["--temperature", "0.7"], "temperature"),
        (["--seed", "1", "--limit", "4"], "problems, seed"),
        (["--batch-size", "4"], "batch_size"),
        (EARLY, "percentile, warm_up, window"),
    ):
        code, printed = select(model_folder, out, *options)
        last = " ".join(printed.split("rlif: ")[-1].split())
        assert code == 2 and f"holds samples drawn with other settings ({named}); write to another folder" in last
    older = {key: value for key, value in json.loads(before["sampling.json"]).items() if key != "content"}
    (out / "sampling.json").write_text(json.dumps(older))
    assert select(model_folder, out)[0] == 0
    (out / "sampling.json").write_text(json.dumps(older | {"content": "of other weights"}))
    code, printed = select(model_folder, out)
    assert code == 2 and "holds samples drawn with other settings (content)" in " ".join(printed.split())
    assert content(out).keys() == before.keys() and content(out)["samples.jsonl"] == before["samples.jsonl"]
    (out / "sampling.json").unlink()
    code, printed = select(model_folder, out)
    assert code == 2 and "no sampling.json with their settings" in printed


@pytest.mark.sweep
def test_rows_of_other_problems_are_refused(tmp_path, model_folder):
    out = tmp_path / "out"
    assert select(model_folder, out)[0] == 0
    lines = (out / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [json.dumps({"id": "x", "completion": "y"}) + "\n", *lines[1:]]
    (out / "samples.jsonl").write_text("".join(rows), encoding="utf-8")
    code, printed = select(model_folder, out)
    assert code == 2 and "holds other rows than were drawn" in printed


@pytest.mark.daily(every=3)
@pytest.mark.parametrize(("key", "value"), [("completion", None), ("right", "yes"), ("self_certainty", [1.0])])
def test_a_damaged_row_is_refused_in_one_sentence(key, value, tmp_path, model_folder):
    out = tmp_path / "out"
    assert select(model_folder, out)[0] == 0
    first, *rest = (out / "samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    damaged = json.dumps(json.loads(first) | {key: value}) + "\n"
    (out / "samples.jsonl").write_text("".join([damaged, *rest]), encoding="utf-8")
    code, printed = select(model_folder, out)
    assert code == 2 and "in line 1 of" in printed and "Traceback" not in printed


def test_samples_that_were_given_are_written_whole_and_never_over_others(tmp_path, model_folder):
    rows = [{"id": "a", "completion": text, "self_certainty": 1.0} for text in ("x", "ü")]
    given, out = tmp_path / "given.jsonl", tmp_path / "out"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def choose(name="given.jsonl"):
        return rlif_process(["select", "--samples", tmp_path / name, "-o", out], tmp_path / "log")

    assert choose()[0] == 0
    whole = content(out)
    for left in (b"", whole["samples.jsonl"][:20], whole["samples.jsonl"].splitlines(keepends=True)[0]):  # by a kill
        (out / "samples.jsonl").write_bytes(left)
        assert choose()[0] == 0 and content(out) == whole
    (tmp_path / "other.jsonl").write_text(json.dumps(rows[1]) + "\n")
    code, printed = choose("other.jsonl")
    assert code == 2 and "samples.jsonl holds other samples than were given; write to another" in printed
    assert content(out) == whole
    assert choose("out/samples.jsonl")[0] == 0 and content(out)["samples.jsonl"] == whole["samples.jsonl"]


@pytest.mark.sweep
def test_a_selection_names_how_prompts_were_rendered_and_no_other_way_is_mixed_in(tmp_path, model_folder):
    out = tmp_path / "drawn"
    assert select(model_folder, out, "--prompt", "intuitor-3b")[0] == 0
    settings = json.loads((out / "selection.json").read_text())["settings"]
    assert settings["chat"] is True and settings["prompt"] == asdict(PROMPTS["intuitor-3b"])
    code, printed = select(model_folder, out, "--prompt", "plain", "--no-chat")
    assert code == 2 and "drawn with other settings (chat, prompt)" in " ".join(printed.split())

    rows = [{"id": "a", "prompt": "Go.", "completion": text, "answer": text, "right": True} for text in "xy"]
    given, out = tmp_path / "given.jsonl", tmp_path / "scored"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def choose(*options):
        arguments = ["select", "--samples", given, "-m", model_folder, "-o", out, *options]
        return rlif_process(arguments, tmp_path / "log")

    assert choose("--no-chat")[0] == 0
    settings, before = json.loads((out / "selection.json").read_text())["settings"], content(out)
    assert settings["chat"] is False and settings["prompt"] is None
    code, printed = choose()
    assert code == 2 and f"{out} holds samples scored with other settings (chat); write to" in " ".join(printed.split())
    assert content(out) == before
    (out / "selection.json").write_text(json.dumps({"settings": settings | {"content": "of other weights"}}))
    code, printed = choose("--no-chat")
    assert code == 2 and "scored with other settings (content)" in " ".join(printed.split())
    (out / "selection.json").unlink()  # a kill came before it
    assert choose()[0] == 0 and content(out)["samples.jsonl"] != before["samples.jsonl"]
