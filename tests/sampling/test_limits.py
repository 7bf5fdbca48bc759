"""Tests that what a model cannot do is said in one sentence, by every command and in a dry run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support import oracle
from support.architectures import SIZES, architecture
from support.commands import main
from support.models import byte_tokenizer, tiny_config, tiny_model
from support.trainers import make_trainer
from transformers import BertConfig, Gemma3TextConfig, Qwen2_5_VLConfig, T5Config

import rlif
from rlif.config.loading import check_recipe
from rlif.errors import DataError, MachineError, ModelError
from rlif.runs.history import read_history
from rlif.sampling.limits import check_finite, check_kind
from rlif.sampling.loading import load_adapter, load_config, load_model, load_tokenizer, model_path
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.scoring.head import longest_sequence


def saved(folder: Path, model: Any = None) -> str:
    (tiny_model() if model is None else model).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def dry_run(monkeypatch, capsys, *overrides: str) -> tuple[int, str, str]:
    settings = ("evaluate.tasks=[]", "max_prompt_tokens=512")  # of the bytes of prompts
    return main(monkeypatch, capsys, "train", "demo", *settings, *overrides, "--dry-run")


def test_a_dry_run_of_a_model_that_can_be_trained_ends_well(tmp_path, monkeypatch, capsys):
    assert dry_run(monkeypatch, capsys, f"model={saved(tmp_path / 'm')}")[0] == 0


POSITIONS = {
    "learned": lambda: architecture("gpt2", n_positions=64, max_position_embeddings=64),
    "rotary": lambda: tiny_model(max_position_embeddings=64),
}


@pytest.mark.parametrize("kind", POSITIONS)
def test_lengths_beyond_the_positions_are_refused_by_every_command(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where evaluations go
    folder = saved(tmp_path / "m", POSITIONS[kind]())
    code, _, err = dry_run(monkeypatch, capsys, f"model={folder}")
    assert code == 2 and "a completion up to 56, together 1" in err and "has 64 positions" in err
    for command in (
        ["train", "demo", f"model={folder}", f"output={tmp_path / 'runs'}", "max_prompt_tokens=512"],
        ["probe", "demo", f"model={folder}", "max_prompt_tokens=512"],
        ["eval", folder, "--tasks", "clock", "--limit", "2"],
        ["select", "--model", folder, "--task", "clock", "--limit", "2", "--n", "2"],
    ):
        code, _, err = main(monkeypatch, capsys, *command)
        assert code == 2 and "has 64 positions" in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DataError, match="row 1 has 70 tokens of prompt and completion, but the model takes 64"):
        rlif.score_completions(POSITIONS[kind](), [[5], [5] * 60], [[6], [6] * 10])


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"max_position_embeddings": 100}, 100),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
                              "original_max_position_embeddings": 100}, "max_position_embeddings": 100}, 400),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
          "max_position_embeddings": 100}, 100),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 50,
                              "short_factor": [1.0] * 4, "long_factor": [9.0] * 4},
          "max_position_embeddings": 100}, 50),  # beyond them a long row changes the frequencies of all
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 50}},
          "max_position_embeddings": 100}, 50),
    ],
)  # fmt: skip
def test_stretched_rotary_positions_count(changes, limit):
    config = tiny_config()
    vars(config).update(changes)  # whatever the version makes of them
    assert longest_sequence(config) == limit


def test_tokens_without_an_embedding_are_refused(tmp_path, monkeypatch, capsys):
    folder = saved(tmp_path / "m", tiny_model(vocab_size=100))
    code, _, err = dry_run(monkeypatch, capsys, f"model={folder}")
    assert code == 2 and "but the embeddings of" in err and "end at 99" in err
    with pytest.raises(ModelError, match="end at 99"):
        TransformersSampler(tiny_model(vocab_size=100), byte_tokenizer()).sample([[5, 200]], Decoding(4))


def test_every_prompt_of_every_task_is_checked_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    """The prompts of the second task are too long, or the last one has a token without an embedding."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rlif.evaluation.grid.load_model", lambda recipe: 1 / 0)
    folder = saved(tmp_path / "m", tiny_model(vocab_size=230, max_position_embeddings=600))
    for name, texts in (("long", ["Go.", "Go on." * 100]), ("unknown", ["Go.", "Go on.", "\u00e0"])):
        rows = [json.dumps({"prompt": text, "answer": "1"}) + "\n" for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    arguments = ["eval", folder, "--max-tokens", "8", "--batch-size", "1", "--limit", "3"]
    for tasks, source, message in (
        ("prompts", "long", "and a completion up to 8, together 6"),
        ("clock,prompts", "long", "has 600 positions"),
        ("prompts", "unknown", "end at 229"),
        ("clock,prompts", "unknown", "end at 229"),
    ):
        more = ["--tasks", tasks, "--source", f"prompts={source}.jsonl"]
        code, _, err = main(monkeypatch, capsys, *arguments, *more)
        assert code == 2 and message in err and not (tmp_path / "evals").exists()


def test_score_names_the_line_of_a_token_without_an_embedding(tmp_path, monkeypatch, capsys):
    folder = saved(tmp_path / "m", tiny_model(vocab_size=230))
    rows = [{"prompt": "Go.", "completion": text} for text in ("a", "b", "\u00e0", "c")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    code, _, err = main(monkeypatch, capsys, "score", str(tmp_path / "rows.jsonl"), "-m", folder, "-o", str(out))
    assert code == 2 and "line 3 of" in err and "end at 229" in err and len(out.read_text().splitlines()) == 2
    samples = [{"id": str(n), **row, "answer": "a", "right": True} for n, row in enumerate(rows)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    code, _, err = main(monkeypatch, capsys, "select", "--samples", str(tmp_path / "samples.jsonl"), "-m", folder)
    assert code == 2 and "end at 229" in err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, tmp_path, monkeypatch, capsys):
    folder = saved(tmp_path / "m")
    weights = load_file(Path(folder) / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    named = "model.layers.1.mlp.up_proj.weight holds values that are not finite"
    code, _, err = dry_run(monkeypatch, capsys, f"model={folder}")
    assert code == 2 and named in err
    with pytest.raises(ModelError, match=named):
        load_model(check_recipe({"model": folder}))
    recipe = rlif.load_recipe("demo", [f"model={folder}", "evaluate.tasks=[]", "max_prompt_tokens=512"])
    with pytest.raises(ModelError, match=named):
        rlif.train(recipe.model_copy(update={"output": str(tmp_path / "runs")}))
    assert not list((tmp_path / "runs").glob("*"))


def without(path: Path, name: str) -> None:
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})


def test_weights_that_lack_a_tensor_are_refused(tmp_path, monkeypatch, capsys):
    """The library makes random numbers of it, and goes on."""
    folder, name = saved(tmp_path / "m"), "model.layers.1.mlp.up_proj.weight"
    without(Path(folder) / "model.safetensors", name)
    lacks = rf"the weights of .* lack {name}, which would be random"
    code, _, err = dry_run(monkeypatch, capsys, f"model={folder}")
    assert code == 2 and re.search(lacks, err)
    with pytest.raises(ModelError, match=lacks):
        load_model(check_recipe({"model": folder}))
    recipe = rlif.load_recipe("demo", [f"model={folder}", "evaluate.tasks=[]", "max_prompt_tokens=512"])
    with pytest.raises(ModelError, match=lacks):
        rlif.train(recipe.model_copy(update={"output": str(tmp_path / "runs")}))
    assert not list((tmp_path / "runs").glob("*"))


def test_weights_of_another_shape_are_refused(tmp_path, monkeypatch, capsys):
    folder = Path(saved(tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    code, _, err = dry_run(monkeypatch, capsys, f"model={folder}")
    assert code == 2 and "has the shape (32, 64), but (32, 96) by config.json" in err


def test_adapters_that_lack_a_tensor_are_refused(tmp_path):
    adapter = adapter_folder(tmp_path)
    without(adapter / "adapter_model.safetensors", "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight")
    with pytest.raises(ModelError, match=r"are not whole: Found missing adapter keys.*layers\.0\.self_attn\.v_proj"):
        load_model(check_recipe({"model": str(adapter)}))


def test_weights_of_whole_numbers_are_not_looked_at():
    check_finite("m", [("packed", torch.zeros(3, dtype=torch.uint8)), ("empty", torch.zeros(0))])


TEXT = Gemma3TextConfig(**SIZES, head_dim=8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Qwen2_5_VLConfig(), "is a qwen2_5_vl model, with vision, and transformers has no causal language model"),
        (T5Config(), "is a t5 model, and transformers has no causal language model"),
        (tiny_config(return_dict=False), "has return_dict: false, which hides its hidden states"),
    ],
)
def test_other_kinds_of_models_are_refused_before_they_are_loaded(config, message, tmp_path, monkeypatch, capsys):
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    byte_tokenizer().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for command in (
        ["train", "demo", f"model={tmp_path}", "max_prompt_tokens=512"],
        ["train", "demo", f"model={tmp_path}", "max_prompt_tokens=512", "--dry-run"],
        ["probe", "demo", f"model={tmp_path}", "max_prompt_tokens=512"],
        ["eval", str(tmp_path), "--tasks", "clock", "--limit", "2"],
        ["select", "--model", str(tmp_path), "--task", "clock", "--limit", "2"],
        ["score", "rows.jsonl", "--model", str(tmp_path)],
    ):
        code, _, err = main(monkeypatch, capsys, *command)
        assert code == 2 and message in err and err.count("\n") == 1


def test_causal_models_of_text_are_not_refused():
    for config in (tiny_config(), TEXT, BertConfig()):
        check_kind("m", config)


def test_quantised_weights_are_trained_by_adapters_alone(tmp_path, monkeypatch, capsys):
    folder = saved(tmp_path / "m")
    path = Path(folder) / "config.json"
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantised))
    code, _, err = dry_run(monkeypatch, capsys, f"model={folder}")
    assert code == 2 and "are quantised (bitsandbytes)" in err and "train adapters over them (lora)" in err
    assert dry_run(monkeypatch, capsys, f"model={folder}", "lora={r: 4}")[0] == 0


def test_layers_dropped_at_random_are_refused(tmp_path, monkeypatch, capsys):
    """TRL samples in training mode, where a layer that was dropped once lacks what later tokens read."""
    folder = saved(tmp_path / "m", architecture("opt", layerdrop=0.1, max_position_embeddings=600))
    code, _, err = dry_run(monkeypatch, capsys, f"model={folder}")
    assert code == 2 and "has layerdrop: 0.1, and completions cannot be sampled" in err


def adapter_folder(folder: Path) -> Path:
    """Writes an adapter that changes its base, and no tokenizer."""
    base = saved(folder / "base")
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(load_model(check_recipe({"model": base})), LoraConfig(**options, init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder / "adapter")
    return folder / "adapter"


ADAPTER = ["evaluate.tasks=[]", "max_prompt_tokens=512", "training.max_steps=2", "training.max_completion_length=4"]
ADAPTER += ["problems_per_update=8", "training.per_device_train_batch_size=16", "training.beta=0.0"]


@pytest.mark.sweep
@pytest.mark.parametrize("lora", [[], ["lora={r: 4, target_modules: [v_proj, q_proj]}"]], ids=["alone", "with lora"])
def test_an_adapter_is_trained_on(lora, tmp_path):
    adapter = adapter_folder(tmp_path)
    recipe = rlif.load_recipe("demo", [f"model={adapter}", f"output={tmp_path / 'runs'}", *ADAPTER, *lora])
    run = rlif.train(recipe)
    before, after = (load_file(path / "adapter_model.safetensors") for path in (adapter, run.model))
    assert before.keys() == after.keys()
    moved = max((before[name] - after[name]).abs().max().item() for name in before)
    assert 0 < moved < 0.05, "it began elsewhere, or did not move"
    trained = load_model(check_recipe({"model": str(run.model)}))
    row = next(read_history(run.path).read_completions(1))
    start = load_model(check_recipe({"model": str(adapter)}))
    expected = oracle.self_certainty(start, row["prompt_ids"], row["completion_ids"])
    assert row["rewards"]["self_certainty"] == pytest.approx(expected, abs=1e-3)
    assert trained.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({}, ["lora={r: 8}"], "is an adapter with r 4, but lora.r is 8; leave lora out"),
        ({"peft_type": "IA3"}, [], "holds a IA3 adapter"),
    ],
)
def test_adapters_that_cannot_be_trained_on_are_refused(changes, overrides, message, tmp_path, monkeypatch, capsys):
    path = adapter_folder(tmp_path) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    code, _, err = dry_run(monkeypatch, capsys, f"model={path.parent}", *ADAPTER, *overrides)
    assert code == 2 and message in err


@pytest.mark.sweep
def test_an_offline_annotator_of_a_trained_adapter_is_its_start(tmp_path):
    """The base without the adapter is another model, so a copy is asked for."""
    adapter = str(adapter_folder(tmp_path))
    model = load_adapter(check_recipe({"model": adapter}), adapter, trained_on=True)
    with pytest.raises(rlif.RlifError, match="annotator offline needs the frozen start"):
        make_trainer(tmp_path, model=model, annotator="offline")
    trainer = make_trainer(tmp_path, model=model, annotator="offline", beta=0.04, max_steps=2)
    trainer.train()
    for row in trainer.rollouts[1]["scored"]:
        expected = oracle.self_certainty(trainer.start, row.prompt_ids, row.completion_ids)
        assert row.reward == pytest.approx(expected, abs=2e-4)
    assert trainer.rollouts[1]["path"] == "reference"


def test_routers_are_quiet_while_a_model_samples(tmp_path):
    model = architecture("qwen3_moe", output_router_logits=True)
    sampler = TransformersSampler(model, byte_tokenizer())
    found = sampler.sample([[5, 6, 7], [9]], Decoding(4, temperature=1.0))
    assert model.config.output_router_logits
    for each in found:
        expected = oracle.self_certainty(architecture("qwen3_moe"), each.prompt_ids, each.completion_ids)
        assert each.self_certainty == pytest.approx(expected, abs=1e-4)
    trainer = make_trainer(tmp_path, model=model, max_steps=1)
    trainer.train()
    assert trainer.rollouts[0]["path"] == "decode"


def write_gguf(path: Path) -> Any:
    """Writes a tiny Qwen2 as GGUF, its matrices quantised to 8 bits; returns the model before that."""
    import gguf

    model, tokenizer = tiny_model(tie_word_embeddings=False), byte_tokenizer()
    writer, config = gguf.GGUFWriter(path, "qwen2"), tiny_config()
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(config.vocab_size)))
    writer.add_token_types([gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * (config.vocab_size - 5))
    writer.add_token_scores([0.0] * config.vocab_size)  # there are no merges
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, values in model.state_dict().items():
        array = values.float().numpy()
        kind = gguf.GGMLQuantizationType.Q8_0 if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(found, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="no gguf; pip install gguf")
def test_gguf_weights_become_an_ordinary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_gguf(tmp_path / "tiny.gguf")
    recipe = check_recipe({"model": str(tmp_path / "tiny.gguf"), "chat": False})
    folder = Path(model_path(recipe))
    assert (folder / "model.safetensors").is_file() and model_path(recipe) == str(folder)
    assert not hasattr(load_config(recipe), "quantization_config")
    assert load_tokenizer(recipe)("Go.")["input_ids"] == byte_tokenizer()("Go.")["input_ids"]
    found = rlif.score_completions(load_model(recipe, device="cpu"), [[5, 6]], [[7, 8, 9]])
    expected = oracle.logprobs_TV(model, [5, 6], [7, 8, 9]).mean(1)
    torch.testing.assert_close(found.mean_logprob_BT[0].double(), expected, atol=0.05, rtol=0)


def test_a_gguf_file_without_its_reader_and_several_of_them_are_refused(tmp_path, monkeypatch):
    (tmp_path / "one.gguf").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("rlif.sampling.sources.find_spec", lambda name: None)
    for path in (tmp_path, tmp_path / "one.gguf"):
        with pytest.raises(MachineError, match=r"one\.gguf takes the package gguf; pip install gguf"):
            model_path(check_recipe({"model": str(path)}))
    monkeypatch.undo()
    (tmp_path / "two.gguf").touch()
    with pytest.raises(ModelError, match=r"several GGUF files \(one\.gguf, two\.gguf\)"):
        model_path(check_recipe({"model": str(tmp_path)}))
