"""Tests the cost model of `rlif plan`: published sizes, one recipe by hand, and what holds for every recipe."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from memory import watch
from support.commands import main
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig
from trl import GRPOConfig

from rlif.config.loading import load_recipe
from rlif.engines.trl.setup import check_training
from rlif.errors import RlifError
from rlif.launching import cost_model as costs
from rlif.launching.commands import Layout, check_strategy
from rlif.launching.cost_model import Setting
from rlif.launching.hardware import GPUS, SHAPES, config_of, shape_of
from rlif.launching.suggestions import suggestions

# Parameters of the published weights, from their safetensors index.
PUBLISHED = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
}


def total(parts: dict[str, float]) -> float:
    return sum(parts.values())


def setting(*overrides: str, recipe: str = "intuitor-qwen2.5-3b-math", **changes) -> Setting:
    settings = load_recipe(recipe, list(overrides))
    plain = Setting(settings, shape_of(config_of(settings)), GPUS["h100"], 8, "ddp", 0, prompt=250, completion=1000)
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("model", SHAPES)
def test_shapes_have_the_published_number_of_parameters(model):
    assert shape_of(AutoConfig.for_model(**SHAPES[model])).parameters == PUBLISHED[model]


def test_memory_and_time_of_one_recipe_equal_arithmetic_by_hand():
    """Qwen2.5-3B on 8 H100: 896 completions of 1,000 tokens after prompts of 250 tokens."""
    found = setting()
    body = 36 * (2048 * 2048 * 2 + 2048 * 256 * 2 + 3 * 2048 * 11008 + 2048 + 2 * 256 + 2 * 2048) + 2048
    head = 151936 * 2048
    assert (found.shape.body, found.shape.head) == (body, head)
    forward = 896 * (1250 * (2 * body + 4 * 36 * 2048 * 625) + 1000 * 2 * head)
    time = costs.step_time(found)
    assert costs.passes(found) == 2  # old log-probabilities, for vLLM; reference model
    assert time.scoring == pytest.approx(2 * forward / (8 * 989e12 * 0.45))
    assert time.training == pytest.approx(4 * forward / (8 * 989e12 * 0.38))
    cache = 2 * 36 * 256 * 2  # bytes per token
    read = 1000 * (body + head) * 2 + 112 * cache * (250 * 1000 + 1000 * 1000 / 2)
    prefill = 16 * (250 * (2 * body + 4 * 36 * 2048 * 125) + 2 * head) / (989e12 * 0.45)
    assert time.generation == pytest.approx(read / (3.35e12 * 0.7) + 1000 * 4e-3 + prefill)
    parts, whole = costs.memory(found), 4 * (body + head) / 2**30
    assert {name: round(size / whole, 6) for name, size in parts.items() if name.split()[0] not in
            ("activations", "vLLM", "CUDA")} == {
        "weights": 1, "gradients": 1, "optimiser state": 2, "buckets of DDP": 1, "reference model": 1,
    }  # fmt: skip
    assert parts["vLLM"] == pytest.approx(0.3 * 79.6)
    cast, gradient = 2 * body, 4 * head  # copies by autocast, and the gradient of the fused head
    micro = (
        cast + gradient + 7 * 3584 * (36 * 2048 + 6 * 2048 + 2 * (2048 + 512) + 4 * 11008) * 2 + 2 * 4096 * 32768 * 2
    )
    assert parts["activations or cache"] == pytest.approx(micro / 2**30)


@pytest.mark.daily(every=4)
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp2", "zero3"])
def test_more_gpus_take_no_more_memory_and_no_more_time(strategy):
    found = [setting("problems_per_update=256", gpus=n, strategy=strategy) for n in (2, 4, 8, 16, 32)]
    sizes, times = [total(costs.memory(s)) for s in found], [costs.step_time(s).total for s in found]
    assert sizes == sorted(sizes, reverse=True) and times == sorted(times, reverse=True)
    assert (sizes[-1] < sizes[0]) == (strategy != "ddp") and times[-1] < times[0]


def test_more_sharding_takes_less_memory():
    sizes = [costs.memory(setting(strategy=s)) for s in ("ddp", "zero2", "fsdp2")]
    assert total(sizes[0]) > total(sizes[1]) > total(sizes[2])
    assert sizes[2]["weights"] == pytest.approx(sizes[0]["weights"] / 8)
    assert sizes[2]["optimiser state"] == pytest.approx(sizes[0]["optimiser state"] / 8)
    assert sizes[1]["weights"] == pytest.approx(sizes[0]["weights"] / 2)  # DeepSpeed computes on a bfloat16 copy


def test_longer_completions_take_more_time_and_memory():
    times = [costs.step_time(setting(completion=n)) for n in (100, 500, 1000, 3072)]
    for part in ("generation", "scoring", "training"):
        values = [getattr(time, part) for time in times]
        assert values == sorted(values) and values[0] < values[-1]
    longer = setting("training.max_completion_length=6144")
    assert total(costs.memory(longer)) > total(costs.memory(setting()))


def test_adapters_take_less_memory_and_time():
    """Their parameters are counted by hand; frozen weights need no gradient and no reference model."""
    options = "lora={r: 16, target_modules: [q_proj, v_proj]}"
    lora, whole = setting(options), setting()
    assert costs.lora_parameters(lora.recipe, lora.shape) == 16 * 36 * (2048 + 2048 + 2048 + 256)
    assert total(costs.memory(lora)) < total(costs.memory(whole)) / 1.5
    assert "reference model" not in costs.memory(lora)
    assert costs.step_time(lora).training == pytest.approx(costs.step_time(whole).training * 3 / 4)
    frozen = [options, "training.beta=0", "annotator=offline"]
    assert "annotator's copy" not in costs.memory(setting(*frozen))  # the start is the model without adapters
    assert "annotator's copy" in costs.memory(setting(*frozen[1:], "annotator_copy=true"))


PLAIN = ["training.use_vllm=false", "training.beta=0"]
UNCORRECTED = ["training.beta=0", "training.vllm_importance_sampling_correction=false"]


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
        ([*PLAIN, "training.steps_per_generation=2"], {}, 0),
        ([*PLAIN, "training.steps_per_generation=32"], {}, 1),
        ([*UNCORRECTED], {}, 1),
        ([*UNCORRECTED, "vllm_capture=true"], {}, 0),
        ([*PLAIN, "reward=likelihood"], {}, 1),
        ([*UNCORRECTED, "reward={self_certainty: 1, likelihood: 0}", "vllm_capture=true"], {}, 1),
        ([*PLAIN, "reward=plurality_vote"], {"strategy": "fsdp2"}, 0),
        ([*PLAIN, "reward=plurality_vote", "annotator=ema"], {}, 0),
        ([*PLAIN, "lora={r: 8, lora_dropout: 0.1}"], {}, 1),
        (["training.use_vllm=false", "annotator=offline", "lora={r: 8, lora_dropout: 0.1}"], {}, 1),
        (["training.beta=0", "lora={r: 8, lora_dropout: 0.1}"], {}, 2),
        ([*PLAIN, "algorithm=rloo", "normalisation=none"], {}, 1),
    ],
)
def test_number_of_scoring_passes(overrides, changes, expected):
    """They are the passes that `rlif.engines.trl.trainer` runs."""
    assert costs.passes(setting(*overrides, **changes)) == expected


def test_generation_takes_several_waves_if_the_cache_is_full():
    """If only half of the sequences fit, the others wait; on a GPU with enough memory they do not."""
    small = [costs.step_time(setting(gpu=GPUS["a100-40"], gpus=n)).generation for n in (2, 1)]
    large = [costs.step_time(setting(gpu=GPUS["b200"], gpus=n)).generation for n in (8, 4)]
    assert small[1] / small[0] > large[1] / large[0]


@pytest.mark.sweep
def test_suggestions_really_fit():
    """Each suggestion fits, with the room it promises, and can be launched."""
    tight = setting()
    assert not costs.fits(tight)
    offered = dict(suggestions(tight))
    assert offered["--strategy fsdp2"] == pytest.approx(costs.room(dataclasses.replace(tight, strategy="fsdp2")))
    larger = "model=Qwen/Qwen2.5-14B"
    for overrides, found in (([], offered), ([larger], dict(suggestions(setting(larger))))):
        assert found
        for name, left in found.items():
            words = re.split(r" (?=--|training|lora)", name)
            strategy = [word.split()[1] for word in words if word.startswith("--strategy")] or ["ddp"]
            server = int("training.vllm_mode=server" in words)
            settings = [word for word in words if not word.startswith("--")]
            changed = setting(*overrides, *settings, strategy=strategy[0], server_gpus=server)
            assert costs.fits(changed) and costs.room(changed) == pytest.approx(left)
            check_strategy(changed.recipe, Layout(changed.trainers, 1, changed.strategy, changed.server_gpus))


CAPTURE = ["vllm_capture=true", "training.beta=0", "training.vllm_importance_sampling_correction=false"]


@pytest.mark.parametrize("overrides", [["annotator=ema"], ["evaluate={tasks: [gsm8k]}"], CAPTURE])
def test_suggestions_offer_no_sharding_to_recipes_that_need_whole_weights(overrides):
    wanting = setting(*overrides)
    check_training(wanting.recipe, wanting.trainers)
    offered = " ".join(name for name, _ in suggestions(wanting))
    assert "server" not in offered or overrides != CAPTURE
    assert "fsdp2" in " ".join(name for name, _ in suggestions(setting()))
    assert offered and "fsdp2" not in offered and ("zero2" in offered) == (overrides != ["annotator=ema"])


def test_precision_defaults_to_trls():
    """TRL uses bfloat16 unless bf16 or fp16 is set. The paper's recipes set bf16, so fp16 needs bf16=null."""
    said = {"bf16=true": 2, "bf16=null": 2, "bf16=false": 4, "fp16=true": 2}
    for option, width in said.items():
        more = ["training.bf16=null"] if option.startswith("fp16") else []
        assert setting(f"training.{option}", *more).width == width
    slow, fast = (costs.step_time(setting(f"training.bf16={value}")).training for value in ("false", "null"))
    assert slow / fast == pytest.approx(989 / 67)
    config = GRPOConfig(output_dir="nowhere", use_cpu=True)
    assert config.bf16 and not GRPOConfig(output_dir="nowhere", use_cpu=True, bf16=False).bf16


def test_vllm_over_several_gpus_has_a_part_of_the_weights_on_each():
    """This reduces time and memory, both colocated and as a server."""
    found = {tp: setting(f"training.vllm_tensor_parallel_size={tp}", completion=1) for tp in (1, 2, 8)}
    half = found[1].shape.parameters
    times = {tp: costs._generation(each) for tp, each in found.items()}
    assert times[1] - times[2] == pytest.approx(half * 2 / 2 / (3.35e12 * 0.7))
    rooms = {tp: costs.vllm_room(each) for tp, each in found.items()}
    longest = 3584 * found[1].cache
    assert rooms[2] - rooms[1] == pytest.approx((half * 2 + longest) / 2 / 2**30)
    server = [setting("training.vllm_mode=server", server_gpus=n) for n in (1, 2)]
    assert costs.vllm_room(server[1]) > costs.vllm_room(server[0]) + half / 2**30 / 1.01
    offered = [name for name, _ in suggestions(setting("model=Qwen/Qwen2.5-14B", strategy="fsdp2"))]
    assert any("training.vllm_tensor_parallel_size=2" in name for name in offered)


def test_vllm_in_sleep_mode_shares_its_memory_with_training():
    awake, asleep = setting(), setting("training.vllm_enable_sleep_mode=true")
    parts, turns = costs.memory(awake), costs.memory(asleep)
    assert "vLLM" not in turns and turns["activations or vLLM"] == max(parts["vLLM"], parts["activations or cache"])
    assert total(parts) - total(turns) == pytest.approx(min(parts["vLLM"], parts["activations or cache"]))
    assert any("sleep_mode" in name for name, _ in suggestions(setting(strategy="zero2", gpu=GPUS["a100-40"])))


@pytest.mark.sweep
def test_autocast_copies_only_trained_float32_weights():
    """No copies of half-precision weights, of weights that torch or DeepSpeed casts in shards, or in float32."""
    body = setting().shape.body * 2 / 2**30

    def copies(*overrides: str, **changes) -> float:
        each = setting(*overrides, **changes)
        own = {"float32": 4}.get(each.recipe.dtype, 2)
        return costs._cast_weights(each, own) / 2**30

    lora = "lora={r: 16, target_modules: all-linear}"
    assert copies() == copies("training.gradient_checkpointing=false") == pytest.approx(body)
    assert copies(lora) == pytest.approx(body / 36)
    assert copies(lora, "training.gradient_checkpointing=false") == pytest.approx(body)
    for overrides, changes in ((["dtype=bfloat16"], {}), (["training.bf16=false"], {}), ([], {"strategy": "fsdp2"})):
        assert copies(*overrides, **changes) == 0


def test_autocast_keeps_copies_of_trained_weights_through_a_checkpointed_pass():
    """Measures torch: bfloat16 bytes alive when the forward pass of four linear layers ends."""
    layers = [torch.nn.Linear(64, 64, bias=False) for _ in range(4)]

    def alive(trained: bool) -> int:
        for layer in layers:
            layer.weight.requires_grad_(trained)
        with watch() as memory, torch.autocast("cpu", torch.bfloat16):
            hidden = torch.zeros(1, 64, requires_grad=True)
            for layer in layers:
                hidden = checkpoint(layer, hidden, use_reentrant=False)
        return memory.peak

    assert alive(True) - alive(False) == pytest.approx(3 * 64 * 64 * 2, rel=0.1)


def test_generation_takes_infinite_time_if_vllm_does_not_fit():
    large = setting("model=Qwen/Qwen2.5-14B")
    assert costs.vllm_room(large) < 0 and costs.step_time(large).generation == float("inf")


def test_a_mixture_of_experts_is_refused():
    with pytest.raises(RlifError, match="dense models"):
        shape_of(AutoConfig.for_model("qwen3_moe"))


def test_the_plan_command_prints_memory_and_time(monkeypatch, capsys):
    arguments = ["plan", "intuitor-qwen2.5-3b-math", "--gpu", "h100", "--strategy", "fsdp2", "--problems", "7500"]
    code, out, _ = main(monkeypatch, capsys, *arguments, "--completion-tokens", "1000", "--prompt-tokens", "250")
    assert code == 0 and "3.09 B parameters, 8 x h100" in out and "fits, " in out
    found = setting(strategy="fsdp2")
    assert f"{total(costs.memory(found)):.2f}" in out and f"{costs.step_time(found).total:.2f}" in out
    hours = 58 * costs.step_time(found).total / 3600
    assert f"58 updates: {hours:.2g} hours, {hours * 8:.2g} GPU hours" in out
    code, out, _ = main(monkeypatch, capsys, *arguments, "model=Qwen/Qwen2.5-14B")
    assert code == 0 and "does not fit" in out and "training.vllm_" in out and "time unknown" in out
    code, out, _ = main(monkeypatch, capsys, "plan", "demo-long", "training.use_cpu=false", "--gpus", "2")
    assert code == 0 and "30 updates" in out


FOUR = ["demo-long", "training.use_cpu=false", "--gpus", "4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--gpu", "hx100"], "unknown gpu 'hx100'; did you mean 'h100'?"),
        (["demo", "--strategy", "fsdp"], "did you mean 'fsdp2'"),
        (["demo", "--gpus", "3"], "do not divide"),
        ([*FOUR, "annotator=ema", "--strategy", "zero2"], "needs strategy ddp and not zero2"),
        ([*FOUR, "--strategy", "fsdp2"], "set evaluate={} and use `rlif eval`"),
        (["demo", "--gpus", "1", "--completion-tokens", "57"], "at most 56 tokens"),
        (["demo", "--gpus", "1", "training.use_vllm=true", "training.vllm_mode=server"], "leave none to train"),
        (["demo", "--gpus", "2", "model=nobody/nothing"], "cannot load the model"),
        (["demo", "--gpus", "1", "training.max_completion_length=long"], "should be a valid integer, found 'long'"),
        ([*FOUR, "training.use_vllm=true", "training.vllm_tensor_parallel_size=two"], "integer, found 'two'"),
        (["demo", "--gpus", "1", "training.max_steps=many"], "should be a valid integer, found 'many'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, monkeypatch, capsys):
    code, _, err = main(monkeypatch, capsys, "plan", *arguments)
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_server_elsewhere_takes_none_of_the_gpus(monkeypatch, capsys):
    there = [*FOUR, "training.use_vllm=true", "training.vllm_mode=server", "training.vllm_server_host=elsewhere"]
    code, out, _ = main(monkeypatch, capsys, "plan", *there)
    assert code == 0 and "4 x h100" in out and "vLLM  " not in out.partition("time of an update")[0]


def test_help_names_every_gpu(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    out = " ".join(main(monkeypatch, capsys, "plan", "--help")[1].split())
    named = re.search(r"--gpu \S+ The kind of GPU: (.*?)\. ", out)
    assert named and re.split(", | or ", named.group(1)) == list(GPUS)
