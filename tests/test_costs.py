"""What `rlif plan` counts: shapes against published sizes, one recipe by hand, and what must hold for every recipe."""

from __future__ import annotations

import dataclasses
import re

import pytest
from test_cli import main
from transformers import AutoConfig

from rlif import costs
from rlif.config import load_recipe
from rlif.costs import Setting
from rlif.errors import RlifError
from rlif.hardware import GPUS, SHAPES, find_shape, shape_of

# Of the weights on the hub, in their safetensors' index.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
}


def setting(*overrides: str, recipe: str = "intuitor-qwen2.5-3b-math", **changes) -> Setting:
    settings = load_recipe(recipe, list(overrides))
    plain = Setting(settings, find_shape(settings), GPUS["h100"], 8, "ddp", 0, prompt=250, completion=1000)
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("model", SHAPES)
def test_shapes_have_the_published_number_of_parameters(model):
    assert shape_of(AutoConfig.for_model(**SHAPES[model])).parameters == PUBLISHED[model]


def test_one_recipe_by_hand():
    """Qwen2.5-3B on 8 H100, 896 completions of 1,000 tokens after prompts of 250, from the numbers alone."""
    found = setting()
    body = 36 * (2048 * 2048 * 2 + 2048 * 256 * 2 + 3 * 2048 * 11008 + 2048 + 2 * 256 + 2 * 2048) + 2048
    head = 151936 * 2048
    assert (found.shape.body, found.shape.head) == (body, head)
    forward = 896 * (1250 * (2 * body + 4 * 36 * 2048 * 625) + 1000 * 2 * head)
    time = costs.step_time(found)
    assert costs.passes(found) == 2  # old log-probabilities, for vLLM; reference model
    assert time.scoring == pytest.approx(2 * forward / (8 * 989e12 * 0.45))
    assert time.training == pytest.approx(4 * forward / (8 * 989e12 * 0.38))
    cache = 2 * 36 * 256 * 2  # bytes of a token
    read = 1000 * (body + head) * 2 + 112 * cache * (250 * 1000 + 1000 * 1000 / 2)
    prefill = 16 * (250 * (2 * body + 4 * 36 * 2048 * 125) + 2 * head) / (989e12 * 0.45)
    assert time.generation == pytest.approx(read / (3.35e12 * 0.7) + 1000 * 4e-3 + prefill)
    parts, whole = costs.memory(found), 4 * (body + head) / 2**30
    assert {name: round(size / whole, 6) for name, size in parts.items() if name.split()[0] not in
            ("activations", "vLLM", "CUDA")} == {
        "weights": 1, "gradients": 1, "optimiser state": 2, "buckets of DDP": 1, "reference model": 1,
    }  # fmt: skip
    assert parts["vLLM"] == pytest.approx(0.3 * 79.6)
    micro = 7 * 3584 * (36 * 2048 + 6 * 2048 + 2 * (2048 + 512) + 4 * 11008) * 2 + 2 * 4096 * 32768 * 2
    assert parts["activations or cache"] == pytest.approx(micro / 2**30)


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp2", "zero3"])
def test_more_gpus_take_no_more_memory_and_no_more_time(strategy):
    found = [setting("problems_per_update=256", gpus=n, strategy=strategy) for n in (2, 4, 8, 16, 32)]
    sizes, times = [costs.total(costs.memory(s)) for s in found], [costs.step_time(s).total for s in found]
    assert sizes == sorted(sizes, reverse=True) and times == sorted(times, reverse=True)
    assert (sizes[-1] < sizes[0]) == (strategy != "ddp") and times[-1] < times[0]


def test_sharding_more_takes_less():
    sizes = [costs.memory(setting(strategy=s)) for s in ("ddp", "zero2", "fsdp2")]
    assert costs.total(sizes[0]) > costs.total(sizes[1]) > costs.total(sizes[2])
    assert sizes[2]["weights"] == pytest.approx(sizes[0]["weights"] / 8)
    assert sizes[2]["optimiser state"] == pytest.approx(sizes[0]["optimiser state"] / 8)
    assert sizes[1]["weights"] == pytest.approx(sizes[0]["weights"] / 2)  # DeepSpeed computes on a bfloat16 copy


def test_longer_completions_take_longer():
    times = [costs.step_time(setting(completion=n)) for n in (100, 500, 1000, 3072)]
    for part in ("generation", "scoring", "training"):
        values = [getattr(time, part) for time in times]
        assert values == sorted(values) and values[0] < values[-1]
    longer = setting("training.max_completion_length=6144")
    assert costs.total(costs.memory(longer)) > costs.total(costs.memory(setting()))


def test_adapters_take_less():
    """Counted by hand for one layer kind; no gradient of frozen weights, no reference model beside them."""
    options = "lora={r: 16, target_modules: [q_proj, v_proj]}"
    lora, whole = setting(options), setting()
    assert costs.lora_parameters(lora.recipe, lora.shape) == 16 * 36 * (2048 + 2048 + 2048 + 256)
    assert costs.total(costs.memory(lora)) < costs.total(costs.memory(whole)) / 1.5
    assert "reference model" not in costs.memory(lora)
    assert costs.step_time(lora).training == pytest.approx(costs.step_time(whole).training * 3 / 4)


@pytest.mark.parametrize(
    ("overrides", "changes", "expected"),
    [
        (["training.use_vllm=false", "training.beta=0"], {}, 0),
        (["training.use_vllm=false", "training.beta=0"], {"strategy": "fsdp2"}, 1),
        (["training.use_vllm=false"], {}, 1),
        (["training.use_vllm=false", "annotator=offline"], {}, 1),
        (["training.use_vllm=false", "annotator=ema"], {}, 2),
        (["training.use_vllm=false", "training.num_iterations=2", "training.beta=0"], {}, 1),
        (["training.beta=0"], {"strategy": "fsdp2"}, 1),
    ],
)
def test_scoring_passes(overrides, changes, expected):
    """As `rlif.engines.trl` has them."""
    assert costs.passes(setting(*overrides, **changes)) == expected


def test_waves_where_the_cache_is_full():
    """Twice as many sequences than fit wait for each other; on a GPU with room they do not."""
    small = [costs.step_time(setting(gpu=GPUS["a100-40"], gpus=n)).generation for n in (2, 1)]
    large = [costs.step_time(setting(gpu=GPUS["b200"], gpus=n)).generation for n in (8, 4)]
    assert small[1] / small[0] > large[1] / large[0]


def test_knobs_are_true():
    """What is offered fits indeed, and what fits already needs none."""
    tight = setting()
    assert not costs.fits(tight)
    offered = dict(costs.knobs(tight))
    assert offered["--strategy fsdp2"] == pytest.approx(costs.room(dataclasses.replace(tight, strategy="fsdp2")))
    for name in offered:
        changed = setting(name) if "=" in name else setting(strategy=name.split()[1])
        assert costs.fits(changed) and costs.room(changed) == pytest.approx(offered[name])
    name, left = costs.knobs(setting("model=Qwen/Qwen2.5-14B"))[0]
    strategy, *training = name.removeprefix("--strategy ").split()
    server = int("training.vllm_mode=server" in training)
    changed = setting("model=Qwen/Qwen2.5-14B", *training, strategy=strategy, server_gpus=server)
    assert len(training) == 2 and costs.fits(changed) and costs.room(changed) == pytest.approx(left)
    changed.recipe.accumulation(changed.trainers)


def test_vllm_that_cannot_start_has_no_time():
    large = setting("model=Qwen/Qwen2.5-14B")
    assert costs.vllm_room(large) < 0 and costs.step_time(large).generation == float("inf")


def test_a_mixture_of_experts_is_refused():
    with pytest.raises(RlifError, match="dense models"):
        shape_of(AutoConfig.for_model("qwen3_moe"))


def test_the_command(monkeypatch, capsys):
    arguments = ["plan", "intuitor-qwen2.5-3b-math", "--gpu", "h100", "--strategy", "fsdp2", "--problems", "7500"]
    code, out, _ = main(monkeypatch, capsys, *arguments, "--completion-tokens", "1000", "--prompt-tokens", "250")
    assert code == 0 and "3.09 B parameters, 8 x h100" in out and "fits, " in out
    found = setting(strategy="fsdp2")
    assert f"{costs.total(costs.memory(found)):.2f}" in out and f"{costs.step_time(found).total:.2f}" in out
    hours = 58 * costs.step_time(found).total / 3600
    assert f"58 updates: {hours:.2g} hours, {hours * 8:.2g} GPU hours" in out
    code, out, _ = main(monkeypatch, capsys, *arguments, "model=Qwen/Qwen2.5-14B")
    assert code == 0 and "does not fit" in out and "training.vllm_" in out and "time unknown" in out
    code, out, _ = main(monkeypatch, capsys, "plan", "demo", "training.use_cpu=false", "--gpus", "2")
    assert code == 0 and "30 updates" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--gpu", "hx100"], "unknown gpu 'hx100'; did you mean 'h100'?"),
        (["demo", "--strategy", "fsdp"], "did you mean 'fsdp2'"),
        (["demo", "--gpus", "3"], "do not divide"),
        (["demo", "--completion-tokens", "57"], "at most 56 tokens"),
        (["demo", "--gpus", "1", "training.use_vllm=true", "training.vllm_mode=server"], "leave none to train"),
        (["demo", "--gpus", "2", "model=nobody/nothing"], "cannot load the model"),
    ],
)
def test_mistakes(arguments, message, monkeypatch, capsys):
    code, _, err = main(monkeypatch, capsys, "plan", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def test_help_names_every_gpu(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    out = " ".join(main(monkeypatch, capsys, "plan", "--help")[1].split())
    named = re.search(r"--gpu <str> (.*?)\. ", out)
    assert named and named.group(1).split(", ") == list(GPUS)
