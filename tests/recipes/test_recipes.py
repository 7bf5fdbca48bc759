"""Tests what the shipped recipes claim against the paper's tables, typed in below, and their arithmetic."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
import torch
from support.models import byte_tokenizer
from transformers import LlamaConfig, Olmo2Config, Qwen2Config, Qwen3Config

from rlif.cli import recipes as cli_recipes
from rlif.config.about import as_file, evaluation_of, method, read_about
from rlif.config.inheritance import keys_of
from rlif.config.loading import check_recipe, find_recipe, load_recipe, shipped_recipes
from rlif.config.steps import plan_steps
from rlif.engines.trl.setup import build_trainer, check_training
from rlif.files.yaml import read_yaml, write_yaml
from rlif.launching import cost_model as costs
from rlif.launching.hardware import GPUS, shape_of
from rlif.tasks import find_task

SHIPPED = shipped_recipes()
PAPER = [name for name, path in SHIPPED.items() if path.parent.name == "paper"]
SMALL = "intuitor-qwen2.5-3b-math-24gb"
ONE_GPU = "intuitor-qwen2.5-3b-math-80gb"
OWN = "intuitor-qwen2.5-3b-prompts-24gb"
VERL = [f"intuitor-qwen2.5-3b-math-verl{variant}" for variant in ("", "-ppo", "-reference")]
OURS = (SMALL, ONE_GPU, OWN, *VERL)

METHODS = {
    "grpo-pv": "plurality_vote",
    "grpo": "accuracy",
    "intuitor": "self_certainty",
    "negative-entropy": "negative_entropy",
    "random": "random",
}
MODELS = {
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "qwen2.5-3b": "Qwen/Qwen2.5-3B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "qwen2.5-14b": "Qwen/Qwen2.5-14B",
    "qwen3-14b": "Qwen/Qwen3-14B",
    "llama3.2-3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
    "olmo2-7b-sft": "allenai/OLMo-2-1124-7B-SFT",
}
DATA = {"code-contests": "code_contests", "math": "math", "prompts": "prompts"}
BUFFERS = 3  # GiB that vLLM takes beside weights and cache: logits of a thousand rows, CUDA graphs; a guess
VARIANTS = ["", "kl0", "kl0.0001", "kl0.01", "lr3e-6", "batch224", "batch224-offline", "24gb", "80gb"]
VARIANTS += ["verl", "verl-ppo", "verl-reference"]

# Tables 1, 3, 4, 5 and 6 of arXiv 2505.19590 v2: GSM8K, MATH500, LiveCodeBench v6, CRUXEval-O, MMLU-Pro, AlpacaEval.
TASKS = ["gsm8k.paper", "math500.paper", "livecodebench", "cruxeval", "mmlu_pro", "alpaca_eval"]
BASES = {
    "qwen2.5-1.5b": ".002 .090 .000 .000 .297 2.10",
    "qwen2.5-3b": ".673 .544 .093 .236 .377 3.72",
    "qwen2.5-7b": ".553 .636 .026 .178 .497 4.46",
    "qwen2.5-14b": ".751 .674 .220 .491 .565 8.51",
    "qwen3-14b": ".480 .794 .358 .663 .597 29.22",
    "llama3.2-3b-instruct": ".688 .436 .106 .265 .340 11.07",
    "olmo2-7b-sft": ".691 .302 .023 .238 .295 6.51",
}
TRAINED = {
    "grpo-qwen2.5-1.5b-math": ".747 .560 .056 .328 .315 4.03",
    "intuitor-qwen2.5-1.5b-math": ".711 .530 .099 .296 .310 4.28",
    "grpo-qwen2.5-3b-math": ".826 .636 .085 .341 .403 6.91",
    "grpo-pv-qwen2.5-3b-math": ".820 .636 .086 .299 .398 6.17",
    "intuitor-qwen2.5-3b-math": ".792 .612 .153 .416 .379 7.10",
    "intuitor-qwen2.5-3b-code-contests": ".743 .572 .153 .411 .386 4.16",
    "intuitor-qwen2.5-3b-math-kl0": ".809 .598 .081 .390 .359 6.77",
    "intuitor-qwen2.5-3b-math-kl0.0001": ".793 .616 .090 .364 .354 6.79",
    "intuitor-qwen2.5-3b-math-kl0.01": ".803 .618 .130 .394 .371 6.54",
    "grpo-qwen2.5-7b-math": ".829 .750 .200 .538 .511 8.52",
    "intuitor-qwen2.5-7b-math": ".873 .750 .190 .574 .514 12.76",
    "grpo-qwen2.5-14b-math": ".917 .758 .296 .520 .578 17.53",
    "intuitor-qwen2.5-14b-math": ".923 .770 .300 .560 .583 20.57",
    "intuitor-qwen3-14b-math": ".864 .834 .356 .677 .613 40.11",
    "grpo-llama3.2-3b-instruct-math": ".714 .494 .127 .266 .361 13.62",
    "intuitor-llama3.2-3b-instruct-math": ".723 .476 .134 .293 .358 12.41",
    "grpo-olmo2-7b-sft-math": ".710 .374 .028 .218 .296 7.38",
    "intuitor-olmo2-7b-sft-math": ".710 .372 .028 .215 .291 7.60",
}
UNPUBLISHED = {
    "grpo-qwen3-14b-math",  # a checkpoint, no scores
    "intuitor-qwen2.5-7b-math-lr3e-6",  # in words
    *(f"intuitor-qwen2.5-{size}-math-batch224{rest}" for size in ("3b", "7b") for rest in ("", "-offline")),  # a figure
    "negative-entropy-qwen2.5-1.5b-math",  # a figure
    "random-qwen2.5-3b-math",  # a figure
}

# Table 7: learning rate, problems per update, group, KL weight, updates, longest prompt and completion.
TABLE_7 = {
    "small": (3e-6, 128, 7, 0.005, 58, 512, 3072),  # beta from the text, see the recipe's conflicts
    "large": (1e-6, 64, 14, 0.01, 117, 512, 3072),
    "code": (1e-6, 64, 14, 0.01, 50, 1024, 2048),
}
OLMO = (1e-6, 64, 16, 0.005, 117, 1024, 2048)  # the reference's script, and the steps of Fig. 11

ARCHITECTURES = {  # as the models' config.json say
    "qwen2.5-1.5b": Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2.5-3b": Qwen2Config(
        vocab_size=151936,
        hidden_size=2048,
        intermediate_size=11008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
    "qwen2.5-14b": Qwen2Config(
        vocab_size=152064,
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=48,
        num_attention_heads=40,
        num_key_value_heads=8,
    ),
    "qwen3-14b": Qwen3Config(
        vocab_size=151936,
        hidden_size=5120,
        intermediate_size=17408,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=8,
        head_dim=128,
    ),
    "llama3.2-3b-instruct": LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    ),
    "olmo2-7b-sft": Olmo2Config(
        vocab_size=100352,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
    ),
}


def parts_of(name: str) -> tuple[str, str, str, str]:
    """Splits a name into method, model, data and variant."""
    pattern = rf"({'|'.join(METHODS)})-({'|'.join(map(re.escape, MODELS))})-({'|'.join(DATA)})(?:-(.*))?"
    found = re.fullmatch(pattern, name)
    assert found, f"{name} is not <method>-<model>-<data>[-variant]"
    return found[1], found[2], found[3], found[4] or ""


def numbers(row: str) -> list[float]:
    return [float(number) for number in row.split()]


def test_every_run_of_the_paper_has_a_recipe():
    assert set(PAPER) == set(TRAINED) | UNPUBLISHED
    assert len(SHIPPED) == len(list(SHIPPED["demo"].parent.rglob("*.yaml"))), "two recipes have the same name"


def test_every_table_and_figure_has_a_recipe():
    """Except for Figs. 1 and 2, which are drawings, and Table 7, which lists the settings."""
    said = " ".join(read_about(name).reproduces for name in PAPER)
    of = {kind: " ".join(re.findall(rf"{kind}s?\.? ([\d, and]+)", said)) for kind in ("Table", "Fig")}
    assert {int(number) for number in re.findall(r"\d+", of["Table"])} == set(range(1, 7))
    assert {int(number) for number in re.findall(r"\d+", of["Fig"])} == set(range(3, 13))


@pytest.mark.parametrize("name", [*PAPER, *OURS])
def test_names_agree_with_reward_model_and_data(name):
    how, model, data, variant = parts_of(name)
    recipe = load_recipe(name)
    assert recipe.reward == METHODS[how] and recipe.model == MODELS[model] and recipe.task == DATA[data]
    assert variant in VARIANTS and recipe.annotator == ("offline" if "offline" in variant else "online")
    assert method(recipe).startswith(METHODS[how])


@pytest.mark.parametrize("name", [*PAPER, *OURS])
def test_every_value_has_a_source(name):
    """A file explains every value that it sets; other values are explained in its base or are defaults."""
    values, about = read_yaml(find_recipe(name)), read_about(name)
    own = set(values["about"]["sources"])
    assert own == set(keys_of(values)) - {"base", "about", "description"}
    recipe, default = load_recipe(name), check_recipe({})
    differing = {key for key in type(recipe).model_fields if getattr(recipe, key) != getattr(default, key)}
    explained = {key.partition(".")[0] for key in about.sources}
    assert differing - {"description"} <= explained
    assert {f"training.{key}" for key in recipe.training} | {f"lora.{key}" for key in recipe.lora or ()} <= {
        *about.sources
    }
    assert about.hardware and about.memory and about.conflicts and about.paper == "arXiv 2505.19590 v2"
    assert about.reported or about.published


@pytest.mark.parametrize("name", PAPER)
def test_conflicts_of_paper_and_code_are_stated(name):
    """Each recipe states the conflicts that concern its values, and has the value it states as taken."""
    recipe, stated = load_recipe(name), read_about(name).conflicts
    assert {"algorithm", "training.temperature"} <= set(stated)
    assert recipe.reward != "self_certainty" or "by the one that generated it" in stated["reward"]
    for key, text in stated.items():
        if value := re.search(r"; (\d[\d.e-]*) taken", text):
            section, _, inner = key.rpartition(".")
            assert float(value[1]) == (recipe.resolved_training[inner] if section else getattr(recipe, key))
    _, model, data, variant = parts_of(name)
    if model.startswith("qwen2.5") and data == "math" and not variant:
        assert {"training.beta", "training.learning_rate", "training.num_generations"} <= set(stated)


@pytest.mark.parametrize("name", PAPER)
def test_published_scores_are_those_of_the_paper(name):
    about = read_about(name)
    assert about.reproduces
    if name in UNPUBLISHED:
        assert not about.published and about.reported and not evaluation_of(about)
        return
    before, after = numbers(BASES[parts_of(name)[1]]), numbers(TRAINED[name])
    assert about.published == dict(zip(TASKS, zip(before, after, strict=True), strict=True))
    for task in TASKS:
        assert find_task(task).protocol
    assert evaluation_of(about) == f"rlif eval runs/NAME --tasks {','.join(TASKS[:-1])}"


@pytest.mark.parametrize("name", [*PAPER, SMALL, ONE_GPU])
def test_settings_and_batch_arithmetic(name):
    """Settings are Table 7's unless the variant changes them; groups are whole, and updates as many as the paper's."""
    _, model, data, variant = parts_of(name)
    column = "code" if data == "code-contests" else "large" if model[-3:] in ("-7b", "14b") else "small"
    rate, problems, group, beta, steps, prompt, completion = OLMO if model.startswith("olmo") else TABLE_7[column]
    if variant.startswith("kl"):
        beta = float(variant.removeprefix("kl"))
    rate = {"lr3e-6": 3e-6, "24gb": 3e-5}.get(variant, rate)
    if variant.startswith("batch224"):
        problems = 224 // group
        steps = 7500 // problems
    recipe, about = load_recipe(name), read_about(name)
    training = recipe.resolved_training
    assert recipe.resolved_normalisation == "group_std" and recipe.algorithm == "grpo"
    assert (training["learning_rate"], training["beta"]) == (rate, beta)
    assert (recipe.problems_per_update, training["num_generations"]) == (problems, group)
    assert (recipe.max_prompt_tokens, training["max_completion_length"]) == (prompt, completion)
    assert training["vllm_max_model_length"] == prompt + completion
    shared = {"temperature": 0.9, "epsilon": 0.2, "lr_scheduler_type": "cosine", "warmup_steps": 0.1}
    assert (shared | {"loss_type": "grpo", "num_train_epochs": 1}).items() <= training.items()
    for processes in {1, 2, about.gpus}:
        accumulation = recipe.accumulation(processes)
        assert accumulation * training["per_device_train_batch_size"] * processes == problems * group
        plan = plan_steps(recipe, recipe.limit or 7500, processes)
        assert plan.steps == steps and plan.completions == steps * problems * group
    assert math.ceil(steps * training["warmup_steps"]) < steps
    if data == "code-contests":
        assert recipe.limit and steps * problems == 3200 < recipe.limit


def setting_of(name: str) -> costs.Setting:
    """Makes a setting of one GPU of the header's size that holds the whole training state."""
    recipe, memory = load_recipe(name), read_about(name).memory
    gpu = dataclasses.replace(GPUS["a100"], memory=float(memory or 0))
    longest = recipe.resolved_training["max_completion_length"]
    return costs.Setting(recipe, shape_of(ARCHITECTURES[parts_of(name)[1]]), gpu, 1, "ddp", 0, 250, longest)


def room_for_completions(setting: costs.Setting) -> float:
    """Counts whole completions that fit into vLLM's memory, less buffers that the cost model does not count."""
    one = costs._one_completion(setting)
    return (costs.vllm_room(setting) * costs.GIB + one - (BUFFERS - 1) * costs.GIB) / one


STATE = ("weights", "gradients", "optimiser state", "reference model")


@pytest.mark.parametrize("name", PAPER)
def test_the_headers_memory_is_that_of_the_cost_model(name):
    """Sharded training state and vLLM's share fit; vLLM has room for more than four whole completions."""
    about, setting = read_about(name), setting_of(name)
    parts = costs.memory(setting)
    assert "annotator's copy" not in parts
    state, share = sum(parts.get(part, 0) for part in STATE), parts["vLLM"]
    said = re.search(r"(\d+) GiB of training state.*?, (\d+) GiB a GPU.*?vLLM (\d+) GiB", about.hardware)
    assert said
    assert [int(number) for number in said.groups()] == [round(state), round(state / about.gpus), round(share)]
    assert room_for_completions(setting) > 4
    assert state / about.gpus + share < 0.9 * (about.memory or 0)


def test_the_recipe_for_one_small_gpu_fits():
    """The memory of weights (twice), adapters, vLLM and activations is as its header says."""
    about, setting = read_about(SMALL), setting_of(SMALL)
    parts, adapters = costs.memory(setting), costs.lora_parameters(setting.recipe, setting.shape)
    assert about.machine == "1 x 24 GB" and about.gpus == 1
    assert not {"reference model", "annotator's copy", "buckets of DDP"} & set(parts)
    assert parts["weights"] == pytest.approx(5.75, abs=0.01)
    assert costs._vllm_fixed(setting) / costs.GIB - 1 == pytest.approx(5.75, abs=0.01)
    assert parts["vLLM"] == pytest.approx(10.8)
    assert round(adapters / 1e6) == 60 and adapters * 16 / 2**30 == pytest.approx(0.9, abs=0.05)
    assert (parts["gradients"] + parts["optimiser state"]) * 4 / 3 == pytest.approx(adapters * 16 / 2**30)
    assert parts["activations or cache"] == pytest.approx(2.3, abs=0.05)
    assert room_for_completions(setting) > 16
    assert costs.fits(setting)


@pytest.mark.parametrize("name", [ONE_GPU, OWN])
def test_the_other_recipes_for_one_gpu_fit(name):
    """Beside buffers, vLLM has room for ten whole completions and more."""
    setting = setting_of(name)
    assert read_about(name).gpus == 1 and costs.fits(setting) and room_for_completions(setting) > 10


def test_the_recipe_for_all_weights_takes_the_memory_that_its_header_says():
    parts, about = costs.memory(setting_of(ONE_GPU)), read_about(ONE_GPU)
    said = re.search(r"(\d+) of training state.*? in turns (\d+) of", about.hardware)
    assert said and [int(number) for number in said.groups()] == [
        round(sum(parts[part] for part in STATE)),
        round(parts["activations or vLLM"]),
    ]


def test_adapters_of_the_small_recipe_stay_in_float32(tmp_path, model_folder):
    """The recipe relies on it, because its frozen weights are bfloat16."""
    small = load_recipe(SMALL)
    lora = json.dumps(small.lora)
    overrides = [f"model={model_folder}", f"dtype={small.dtype}", f"lora={lora}", "training.log_level=error"]
    recipe = load_recipe("demo", overrides)
    trainer = build_trainer(recipe, check_training(recipe, 1), ["Go."] * 64, byte_tokenizer(), str(tmp_path / "out"))
    types = {parameter.requires_grad: set() for parameter in trainer.model.parameters()}
    for parameter in trainer.model.parameters():
        types[parameter.requires_grad].add(parameter.dtype)
    assert types == {True: {torch.float32}, False: {torch.bfloat16}}
    adapted = {name.rpartition(".lora_A")[0].rpartition(".")[2] for name, _ in trainer.model.named_parameters()}
    assert adapted - {""} == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.daily(every=4)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shown_recipe_is_the_same_recipe(name, tmp_path):
    """`rlif recipes --show NAME > mine.yaml` needs no base and trains the same."""
    written = as_file(name)
    assert "base" not in written
    write_yaml(written, tmp_path / "mine.yaml")
    again, recipe = load_recipe(tmp_path / "mine.yaml"), load_recipe(name)
    spelled_out = {"training": recipe.resolved_training, "normalisation": recipe.resolved_normalisation}
    assert again.model_dump() == recipe.model_dump() | spelled_out
    assert read_about(tmp_path / "mine.yaml") == read_about(name)


def test_the_table_of_recipes_has_a_row_for_each():
    headings, rows = cli_recipes.table()
    assert [row[0] for row in rows] == list(SHIPPED)
    row = rows[list(SHIPPED).index("grpo-pv-qwen2.5-3b-math")]
    assert dict(zip(headings, row, strict=True)) == {
        "recipe": "grpo-pv-qwen2.5-3b-math",
        "learns from": "plurality_vote",
        "model": "Qwen2.5-3B",
        "data": "math",
        "what it is": "Table 1; Fig. 3",
        "hardware": "8 x 40 GB",
        "published, before -> after": "gsm8k .673 -> .820, math500 .544 -> .636",
    }
