"""Tests cards and exports: what they say, what they refuse, and that exported models load."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from support.commands import main
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlif.errors import DataError, ModelError, RecipeError
from rlif.exporting.card import write_card
from rlif.exporting.folder import export
from rlif.files.yaml import parse_yaml
from rlif.runs.folder import Run


def rows(text: str) -> dict[str, str]:
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in cells if len(row) == 2}


@pytest.mark.sweep
def test_the_card_has_the_provenance_of_the_run(run):
    card, summary, begun = ModelCard.load(run.model / "README.md"), run.summary(), run.fingerprint()
    data, found = card.data, rows(card.text)
    assert data.library_name == "transformers" and {"rlif", "trl", "grpo", "self_certainty"} == set(data.tags)
    assert found["prompts"] == f"{begun['problems']['rows']}, sha256 {begun['problems']['sha256']}"
    assert begun["model"]["model.safetensors"]["sha256"] in found["its revision"]
    assert found["steps"] == "4" and found["reward"] == "self_certainty" and found["torch"] == torch.__version__
    assert "Training read no gold answer." in card.text and "None. The guard checks" in card.text
    for task, pair in summary["evaluations"].items():
        for when in ("before", "after"):
            accuracy = pair[when]["accuracy"]
            (line,) = [line for line in card.text.splitlines() if line.startswith(f"| {task} | {when} |")]
            assert line.endswith(f"| {accuracy['n']} |") and f"{accuracy['mean']:.1%} [" in line
    values = {result.dataset_name: result.metric_value for result in data.eval_results or []}
    assert values == {task: pair["after"]["accuracy"]["mean"] for task, pair in summary["evaluations"].items()}


def test_the_card_names_no_folder_of_this_machine(run, model_folder):
    text = (run.model / "README.md").read_text()
    assert str(model_folder.parent) not in text and str(run.path.parent) not in text
    assert model_folder.name in text


def test_the_recipe_of_the_card_is_that_of_the_run(run):
    text = (run.model / "README.md").read_text()
    values = parse_yaml(text.partition("```yaml\n")[2].partition("```")[0], "card")
    recipe = run.recipe()
    assert values["training"]["max_steps"] == 4 and values["task"] == "clock"
    assert values["evaluate"]["limit"] == recipe.evaluate.limit and "output" not in values


def test_alarms_and_gold_are_stated(run, tmp_path):
    """The card of a run with an alarm, gold answers in its reward, and no evaluation."""
    alarm = {"step": 7, "severity": "alarm", "sign": "length", "seen": "completions are four times as long"}
    summary = run.summary() | {"evaluations": {}}
    summary["guard"] = {**summary["guard"], "alarms": [alarm]}
    changed = Run(tmp_path / "changed")
    changed.path.mkdir()
    for name in ("recipe.yaml", "begun.json", "environment.json"):
        text = (run.path / name).read_text()
        text = text.replace("reward: self_certainty", "reward: accuracy").replace('"processes": 1', '"processes": 8')
        (changed.path / name).write_text(text)
    write_card(changed.path, changed, summary)
    text = (changed.path / "README.md").read_text()
    assert "step 7, alarm length: completions are four times as long" in text
    assert "Gold answers were part of its reward." in text and "`rlif launch --processes 8 recipe.yaml`" in text
    assert "no reward compared them" not in text
    assert "Nothing is known of its accuracy" in text and "Without reading the alarms" in text
    assert "model-index" not in text


@pytest.mark.parametrize(
    ("processes", "strategy", "training", "command"),
    [
        (1, '"ddp"', "", "give `rlif train recipe.yaml`."),
        (8, '"zero3"', "", "give `rlif launch --processes 8 --strategy zero3 recipe.yaml`."),
        (1, '"zero2"', "", "give `rlif launch --processes 1 --strategy zero2 recipe.yaml`."),
        (8, "null", "", "give `accelerate launch --config_file CONFIG --num_processes 8 -m rlif train recipe.yaml`; "),
        (8, "null", "  deepspeed: mine.json\n", "give `rlif launch --processes 8 recipe.yaml`."),
    ],
)
def test_the_card_repeats_the_launch(processes, strategy, training, command, run, tmp_path):
    assert '"strategy": "ddp"' in (run.path / "environment.json").read_text()
    for name in ("recipe.yaml", "begun.json", "environment.json"):
        text = (run.path / name).read_text().replace("training:\n", f"training:\n{training}")
        text = text.replace('"processes": 1', f'"processes": {processes}')
        (tmp_path / name).write_text(text.replace('"strategy": "ddp"', f'"strategy": {strategy}'))
    write_card(tmp_path, Run(tmp_path), run.summary())
    assert command in (tmp_path / "README.md").read_text()


def test_a_run_is_exported_as_a_folder_that_loads(run, tmp_path, monkeypatch, capsys):
    target = tmp_path / "out" / "model"
    code, out, err = main(monkeypatch, capsys, "export", str(run.path), "-o", str(target))
    assert code == 0 and out == f"exported to {target}\n", err
    names = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {"README.md", "recipe.yaml", "config.json", "results/before.json", "results/after.json"} <= names
    assert "training_args.bin" not in names and not list(target.parent.glob(".*"))
    whole = AutoModelForCausalLM.from_pretrained(target).state_dict()
    own = AutoModelForCausalLM.from_pretrained(run.model).state_dict()
    assert all(torch.equal(whole[name], own[name]) for name in own)
    AutoTokenizer.from_pretrained(target)
    with pytest.raises(DataError, match="exists already"):
        export(run.path, target)


@pytest.mark.sweep
def test_adapters_have_our_card_and_are_merged_on_request(adapters, tmp_path):
    card = ModelCard.load(adapters.model / "README.md")
    assert card.data.library_name == "peft" and "holds LoRA adapters." in card.text
    assert "[More Information Needed]" not in card.text
    export(adapters.path, tmp_path / "plain")
    assert (tmp_path / "plain/adapter_model.safetensors").exists()
    export(adapters.path, tmp_path / "merged", merge=True)
    card = ModelCard.load(tmp_path / "merged/README.md")
    assert card.data.library_name == "transformers" and "merged into the base" in card.text
    assert not (tmp_path / "merged/adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype="auto")
    assert merged.dtype == torch.bfloat16
    low_rank = load_file(adapters.model / "adapter_model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(adapters.recipe().model, dtype=torch.bfloat16).state_dict()
    layer = "model.layers.0.self_attn.q_proj"
    down, up = (low_rank[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
    scale = json.loads((adapters.model / "adapter_config.json").read_text())["lora_alpha"] / 4
    expected = (base[f"{layer}.weight"].float() + scale * up @ down).bfloat16()
    assert torch.equal(merged.state_dict()[f"{layer}.weight"], expected)
    assert not torch.equal(expected, base[f"{layer}.weight"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, RecipeError, "say where to"),
        ({"private": True, "folder": "x"}, RecipeError, "--private is for --hub"),
        ({"merge": True, "folder": "x"}, RecipeError, "nothing to merge"),
        ({"hub": "not a name"}, RecipeError, "is not a name of a repository"),
    ],
)
def test_what_cannot_be_exported_is_refused(run, options, error, message):
    with pytest.raises(error, match=message):
        export(run.path, **options)


def test_cheap_refusals_come_before_weights_are_read(run, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("weights were read")

    monkeypatch.setattr("rlif.exporting.folder._check_weights", read)
    with pytest.raises(RecipeError, match="nothing to merge"):
        export(run.path, tmp_path / "out", merge=True)
    with pytest.raises(RecipeError, match="is not a name of a repository"):
        export(run.path, hub="not a name")
    with pytest.raises(DataError, match="exists already"):
        export(run.path, tmp_path)


def test_unfinished_runs_and_links_that_lead_out_are_refused(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    os.symlink("/etc/hostname", copy / "model/extra.json")
    with pytest.raises(DataError, match="symbolic link"):
        export(copy, tmp_path / "out")
    (copy / "model/extra.json").unlink()
    (copy / "summary.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_of_a_local_base_do_not_go_to_the_hub(adapters, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(ModelError, match="merge them with --merge"):
        export(adapters.path, hub="me/mine")


def test_a_base_that_cannot_be_loaded_is_named(adapters, tmp_path, monkeypatch):
    def gone(*_):
        raise OSError("no such repository")

    monkeypatch.setattr("rlif.exporting.folder.load_weights", gone)
    with pytest.raises(ModelError, match=r"cannot load the base '.*' of these adapters: no such repository"):
        export(adapters.path, tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


def test_a_killed_export_leaves_no_folder(run, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlif.exporting.folder.write_card", killed)
    with pytest.raises(KeyboardInterrupt):
        export(run.path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_scores_travel_with_the_model(run, tmp_path):
    export(run.path, tmp_path / "out")
    found = json.loads((tmp_path / "out/results/after.json").read_text())
    accuracy = run.summary()["evaluations"]["clock"]["after"]["accuracy"]
    assert found["results"]["clock"]["accuracy,last_boxed"] == accuracy["mean"]
    assert found["n-samples"]["clock"]["effective"] == accuracy["n"]


def test_gold_that_is_only_logged_is_stated(run, tmp_path):
    for name in ("recipe.yaml", "begun.json", "environment.json"):
        text = (run.path / name).read_text()
        both = "reward: {self_certainty: 1.0, accuracy: 0}"
        (tmp_path / name).write_text(text.replace("reward: self_certainty", both))
    write_card(tmp_path, Run(tmp_path), run.summary())
    text = (tmp_path / "README.md").read_text()
    assert "Training read gold answers for its log alone" in text and "no reward compared them" in text


def test_damaged_and_missing_weights_are_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    weights = copy / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"cannot read model\.safetensors of "):
        export(copy, tmp_path / "exported")
    weights.rename(copy / "model/model-00001-of-00002.safetensors")
    index = copy / "model/model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002.safetensors"}})
    )
    with pytest.raises(DataError, match=r"lacks model-00002\.safetensors, which model\.safetensors\.index\.json names"):
        export(copy, tmp_path / "exported")
    index.unlink()
    (copy / "model/model-00001-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match="has no weights"):
        export(copy, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
