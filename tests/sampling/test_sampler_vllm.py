"""Tests vLLM's sampler against transformers: the same tokens and self-certainty. `make test-vllm` runs all."""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import EntryPoint, EntryPoints
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import rlif
from rlif.cli.main import app
from rlif.config.recipe import Recipe
from rlif.errors import RlifError
from rlif.sampling import vllm_sampler as rollout_vllm
from rlif.sampling.loading import load_model, load_tokenizer
from rlif.sampling.sampler import Decoding, TransformersSampler
from rlif.sampling.vllm_sampler import VllmSampler, stream, why_no_self_certainty
from rlif.selection.samples import score_samples
from rlif.selection.scorer import Scorer

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="no vLLM; make test-vllm")

TEXTS = ["Go.", "What is left of the rest, when the rest is taken away from what is left?", "A", "ab " * 13, "Go."]
PROMPTS = [byte_tokenizer().encode(text) for text in TEXTS]
GREEDY = Decoding(max_tokens=24)
SAMPLED = Decoding(max_tokens=24, temperature=0.9, top_p=0.9, n=3, seed=11)


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random models in float32 with heads of 32, the smallest that vLLM's CPU build takes."""
    qwen2 = tiny_model(hidden_size=64, num_attention_heads=2, num_key_value_heads=1)
    settings = {"attention_bias", "use_sliding_window", "sliding_window", "max_window_layers", "layer_types"}
    config = {key: value for key, value in qwen2.config.to_dict().items() if key not in settings | {"model_type"}}
    torch.manual_seed(1)
    llama = LlamaForCausalLM(LlamaConfig(**config | {"architectures": ["LlamaForCausalLM"]}))
    # What a model's own generation config says must not matter, but for the tokens that end a completion.
    llama.generation_config.update(eos_token_id=[1, 77, 91], repetition_penalty=1.6, do_sample=True, top_k=3)
    models = {"qwen2": qwen2, "llama": llama}
    return {name: save(model, tmp_path_factory.mktemp(name)) for name, model in models.items()}


@pytest.fixture(scope="module")
def engine(folders):
    """Builds samplers, one at a time; the last one is used again for the same arguments."""
    alive: dict[str, VllmSampler] = {}

    def build(name: str = "qwen2", **options: Any) -> VllmSampler:
        key = f"{name} {sorted(options.items())}"
        if key not in alive:
            close()
            options = {"enforce_eager": True, "kv_cache_memory_bytes": 2**25, "max_model_len": 256} | options
            alive[key] = VllmSampler(str(folders[name]), **options)
        return alive[key]

    def close() -> None:
        while alive:
            alive.popitem()[1].close()

    build.close = close
    yield build
    close()


@pytest.fixture
def reference(folders):
    def build(name: str = "qwen2") -> TransformersSampler:
        return TransformersSampler(AutoModelForCausalLM.from_pretrained(folders[name]), byte_tokenizer())

    return build


def self_certainties(sampler: TransformersSampler, completions: list) -> list:
    ids = [c.completion_ids for c in completions]
    stats = rlif.score_completions(sampler.model, [c.prompt_ids for c in completions], ids)
    return rlif.SIGNALS["self_certainty"](stats)


def tokens(completions: list) -> list:
    return [(c.text, c.prompt_ids, c.completion_ids, c.truncated) for c in completions]


@needs_vllm
@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_greedy_is_transformers_greedy(engine, reference, name):
    ours, theirs = engine(name).sample(PROMPTS, GREEDY), reference(name).sample(PROMPTS, GREEDY)
    assert tokens(ours) == tokens(theirs)
    assert [c.self_certainty for c in ours] == pytest.approx([c.self_certainty for c in theirs], abs=1e-4)


@needs_vllm
@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_self_certainty_is_that_of_the_raw_logits(engine, reference, name):
    """Temperature and top_p do not change it."""
    completions = engine(name).sample(PROMPTS, SAMPLED)
    expected = self_certainties(reference(name), completions)
    assert [c.self_certainty for c in completions] == pytest.approx(expected, abs=1e-4)


@needs_vllm
def test_n_completions_per_prompt_repeatable(engine):
    sampler = engine("qwen2")
    completions = sampler.sample(PROMPTS, SAMPLED)
    assert [c.prompt_ids for c in completions] == [ids for ids in PROMPTS for _ in range(3)]
    assert len({tuple(c.completion_ids) for c in completions}) == len(completions)
    assert sampler.sample(PROMPTS, SAMPLED) == completions
    assert sampler.sample([], SAMPLED) == []


@needs_vllm
def test_a_completion_does_not_depend_on_how_many_others_there_are(engine):
    sampler = engine("qwen2")
    all_of_them = sampler.sample(PROMPTS, SAMPLED)
    fewer = sampler.sample(PROMPTS[:2], Decoding(max_tokens=24, temperature=0.9, top_p=0.9, n=2, seed=11))
    assert tokens(fewer) == tokens([all_of_them[i] for i in (0, 1, 3, 4)])
    other_seed = sampler.sample(PROMPTS, Decoding(max_tokens=24, temperature=0.9, top_p=0.9, n=3, seed=12))
    assert all(a.completion_ids != b.completion_ids for a, b in zip(all_of_them, other_seed, strict=True))


@needs_vllm
def test_samples_follow_the_models_distribution(engine, reference):
    """Compares 4000 first tokens with the softmax of transformers; 5 standard errors are allowed."""
    draws, temperature = 4000, 0.7
    completions = engine("qwen2").sample([PROMPTS[1]], Decoding(max_tokens=1, temperature=temperature, n=draws))
    with torch.no_grad():
        logits_V = reference("qwen2").model(torch.tensor([PROMPTS[1]])).logits[0, -1]
    expected_V = (logits_V / temperature).softmax(-1)
    drawn = torch.tensor([c.completion_ids[0] for c in completions])
    found_V = torch.bincount(drawn, minlength=len(expected_V)) / draws
    assert expected_V.max() < 0.9
    assert ((found_V - expected_V).abs() < 5 * (expected_V / draws).sqrt() + 1 / draws).all()


@needs_vllm
def test_stop_strings_end_a_completion_and_are_cut_from_its_text(engine, reference):
    sampler, plain = engine("qwen2"), engine("qwen2").sample(PROMPTS, GREEDY)
    letters = [next(c for c in completion.text[6:] if c.isascii() and c.isprintable()) for completion in plain]
    stop = tuple(dict.fromkeys(letters))[:3]
    stopped = sampler.sample(PROMPTS, Decoding(max_tokens=24, stop=stop))
    assert tokens(stopped) == tokens(reference("qwen2").sample(PROMPTS, Decoding(max_tokens=24, stop=stop)))
    assert {c.truncated for c in stopped} >= {False}
    for before, after in zip(plain, stopped, strict=True):
        assert not any(string in after.text for string in stop)
        assert after.completion_ids == before.completion_ids[: len(after.completion_ids)]
        assert after.truncated or any(string in byte_tokenizer().decode(after.completion_ids) for string in stop)


@needs_vllm
def test_a_completion_ends_with_an_end_token_or_is_truncated(engine):
    """The model's generation config names three tokens that end."""
    completions = engine("llama").sample(PROMPTS, Decoding(max_tokens=120, temperature=1.5, n=20))
    assert {c.truncated for c in completions} == {True, False}
    ends = {c.completion_ids[-1] for c in completions if not c.truncated}
    assert ends <= {1, 77, 91} and len(ends) > 1
    for completion in completions:
        assert not {1, 77, 91} & {*completion.completion_ids[:-1]}
        assert completion.truncated is (completion.completion_ids[-1] not in {1, 77, 91})
        assert len(completion.completion_ids) == 120 or not completion.truncated


@needs_vllm
def test_the_engines_length_truncates_too(engine):
    completion = engine("qwen2").sample([[5] * 250], Decoding(max_tokens=24))[0]
    assert len(completion.completion_ids) == 6 and completion.truncated and completion.self_certainty is not None


@needs_vllm
def test_preemption_and_chunked_prompts_change_nothing(engine, reference):
    """With a cache of 20 blocks for 40 prompts, requests are preempted and restarted, and prompts come in chunks."""
    prompts = [[5 + i, *range(60, 60 + 3 * i)] for i in range(40)]
    decoding = Decoding(max_tokens=60)
    small = engine(
        "qwen2",
        num_gpu_blocks_override=20,
        block_size=32,
        max_num_seqs=16,
        max_num_batched_tokens=24,
        enable_chunked_prefill=True,
        disable_log_stats=False,
    )
    ours = small.sample(prompts, decoding)
    assert next(m.value for m in small.llm.get_metrics() if m.name == "vllm:num_preemptions") > 0
    theirs = reference("qwen2").sample(prompts, decoding)
    assert tokens(ours) == tokens(theirs)
    assert [c.self_certainty for c in ours] == pytest.approx([c.self_certainty for c in theirs], abs=1e-4)


@needs_vllm
def test_samples_are_the_same_in_a_small_cache(engine, reference):
    roomy = engine("qwen2").sample(PROMPTS, SAMPLED)
    small = engine("qwen2", num_gpu_blocks_override=10, block_size=32, max_num_seqs=8, disable_log_stats=False)
    decoding = Decoding(max_tokens=100, temperature=0.9, n=3)
    assert tokens(small.sample(PROMPTS, SAMPLED)) == tokens(roomy)
    completions = small.sample(PROMPTS, decoding)
    assert next(m.value for m in small.llm.get_metrics() if m.name == "vllm:num_preemptions") > 0
    expected = self_certainties(reference("qwen2"), completions)
    assert [c.self_certainty for c in completions] == pytest.approx(expected, abs=1e-4)


@needs_vllm
def test_an_engine_in_its_own_process_gives_the_same(engine, monkeypatch):
    expected = engine("qwen2").sample(PROMPTS, SAMPLED)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    assert engine("qwen2", seed=1).sample(PROMPTS, SAMPLED) == expected


@needs_vllm
def test_self_certainty_that_cannot_be_measured_is_none_with_one_warning(engine, reference, monkeypatch, caplog):
    plugins = EntryPoints([EntryPoint("masker", "nowhere:Masker", "vllm.logits_processors")])
    monkeypatch.setattr(rollout_vllm, "entry_points", lambda group: plugins.select(group=group))
    sampler = engine("qwen2", seed=2)
    completions = [*sampler.sample(PROMPTS, GREEDY), *sampler.sample(PROMPTS, GREEDY)]
    (warning,) = (record.getMessage() for record in caplog.records if "self-certainty" in record.getMessage())
    assert "cannot measure self-certainty after the plug-in masker" in warning
    assert tokens(completions) == tokens(reference("qwen2").sample(PROMPTS, GREEDY)) * 2
    assert {c.self_certainty for c in completions} == {None}


@needs_vllm
def test_a_token_that_was_not_seen_makes_self_certainty_none(engine, monkeypatch, caplog):
    sampler = engine("qwen2")
    whole = sampler.llm.collective_rpc

    def lossy(method: str) -> list[dict]:
        taken = [dict(each) for each in whole(method)]
        first = min(taken[0])
        return [each | {first: each[first][:-1]} for each in taken]

    monkeypatch.setattr(sampler.llm, "collective_rpc", lossy)
    certainties = [c.self_certainty for c in sampler.sample(PROMPTS, GREEDY)]
    assert "did not show the logits of every token" in caplog.text
    assert certainties[0] is None and None not in certainties[1:]


@needs_vllm
@pytest.mark.parametrize(
    ("prompts", "decoding", "said"),
    [
        ([[5], []], GREEDY, "prompt 1 has 0 tokens and must have from 1 to 255"),
        ([[5] * 256], GREEDY, "prompt 0 has 256 tokens and must have from 1 to 255"),
        ([[5, 261]], GREEDY, "prompt 0 holds a token id outside the model's 261"),
        ([[5]], Decoding(max_tokens=4, temperature=2.5), "vLLM refuses this decoding: temperature must be in"),
    ],
)
def test_what_cannot_be_sampled_is_refused(engine, prompts, decoding, said):
    with pytest.raises(RlifError, match=said):
        engine("qwen2").sample(prompts, decoding)


@needs_vllm
def test_a_model_that_does_not_load_raises_a_model_error(folders, tmp_path):
    with pytest.raises(RlifError, match=r"vLLM cannot load .*nowhere"):
        VllmSampler(str(tmp_path / "nowhere"))
    with pytest.raises(RlifError, match=r"max_model_len \(9999\) is greater than"):
        VllmSampler(str(folders["qwen2"]), max_model_len=9999)


@needs_vllm
def test_rlif_eval_gives_the_same_scores_by_vllm_and_by_transformers(engine, tmp_path, monkeypatch):
    engine.close()
    eager = partial(VllmSampler, enforce_eager=True, kv_cache_memory_bytes=2**25)
    monkeypatch.setattr(rollout_vllm, "VllmSampler", eager)
    scores = {}
    for name in ("vllm", "transformers"):
        command = ["eval", "tiny-reasoner", "--tasks", "clock,cups", "--limit", "12", "--engine", name]
        app([*command, "--output", str(tmp_path / name)], standalone_mode=False)
        files = [tmp_path / name / "tiny-reasoner" / f"{task}.json" for task in ("clock", "cups")]
        scores[name] = [json.loads(file.read_text()) for file in files]
    for ours, theirs in zip(scores["vllm"], scores["transformers"], strict=True):
        assert (ours.pop("engine"), theirs.pop("engine")) == ("vllm", "transformers")
        assert (ours.pop("batch_size"), theirs.pop("batch_size")) == (512, 64)
        assert ours.pop("self_certainty") == pytest.approx(theirs.pop("self_certainty"), abs=1e-4)
        assert ours == theirs and ours["accuracy"]["n"] == 12


@needs_vllm
def test_rlif_select_by_vllm(engine, tmp_path, monkeypatch):
    """Its samples carry the self-certainty that a pass of transformers gives them, and the rules that read it."""
    engine.close()
    eager = partial(VllmSampler, enforce_eager=True, kv_cache_memory_bytes=2**25)
    monkeypatch.setattr(rollout_vllm, "VllmSampler", eager)
    command = ["select", "--model", "tiny-reasoner", "--task", "clock", "--limit", "6", "--n", "4"]
    app([*command, "--engine", "vllm", "--out", str(tmp_path / "drawn")], standalone_mode=False)
    rows = [json.loads(line) for line in (tmp_path / "drawn/samples.jsonl").read_bytes().splitlines()]
    assert len(rows) == 24 and {key for row in rows for key in row} & rlif.SIGNALS.keys() == {"self_certainty"}
    shown = json.loads((tmp_path / "drawn/selection.json").read_text())["scaling"]["accuracy"]
    assert {"self_certainty", "borda", "plurality"} <= shown.keys()
    assert not any(name.startswith("deepconf") for name in shown)

    recipe = Recipe(model="tiny-reasoner")
    scorer, clock = Scorer(load_model(recipe), load_tokenizer(recipe)), rlif.TASKS["clock"]
    given = [{key: value for key, value in row.items() if key != "self_certainty"} for row in rows]
    scored = score_samples(given, scorer, clock, {problem.id: problem for problem in clock.load("test", limit=6)})
    assert [row["self_certainty"] for row in rows] == pytest.approx([s["self_certainty"] for s in scored], abs=1e-4)


@needs_vllm
def test_rows_follow_the_moves_of_vllm():
    """Rows are removed, added, moved, in this order; the values of row r belong to the request that is there."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    from rlif.sampling.vllm_capture import KEY, TEMPERATURE, SelfCertainty, Worker, mean_logprob

    processor = SelfCertainty(None, torch.device("cpu"), False)
    outputs: dict[int, list[int]] = {number: [] for number in (100, 101, 102, 103)}

    def update(size: int, removed: tuple = (), added: tuple = (), moved: tuple = ()) -> None:
        params = [(row, SamplingParams(extra_args={KEY: number}), None, outputs[number]) for row, number in added]
        processor.update_state(BatchUpdate(batch_size=size, removed=removed, added=params, moved=moved))

    def step(*numbers: int) -> list[float]:
        logits_BV = torch.randn(len(numbers), 7)
        assert processor.apply(logits_BV.clone()).equal(logits_BV)
        for number in numbers:
            outputs[number].append(0)
        return logits_BV.log_softmax(-1).mean(-1).tolist()

    update(3, added=((0, 100), (1, 101), (2, 102)))
    first = step(100, 101, 102)
    update(3, moved=((0, 2, MoveDirectionality.SWAP),))
    second = step(102, 101, 100)
    update(2, removed=(1,), added=(), moved=((2, 1, MoveDirectionality.UNIDIRECTIONAL),))
    third = step(102, 100)
    outputs[102].pop()  # thrown out, and computed anew in another row
    update(2, removed=(0,), added=((0, 103),))
    fourth = step(103, 100)
    update(3, added=((2, 102),))
    fifth = step(103, 100, 102)
    assert Worker().take_mean_logprob() == {
        100: pytest.approx([first[0], second[2], third[1], fourth[1], fifth[1]]),
        101: pytest.approx([first[1], second[1]]),
        102: pytest.approx([first[2], second[0], fifth[2]]),
        103: pytest.approx([fourth[0], fifth[0]]),
    }
    processor.apply(torch.randn(5, 7))  # rows that are not the batch's are nobody's
    assert Worker().take_mean_logprob() == {}

    hot = SamplingParams(extra_args={KEY: 7, TEMPERATURE: 2.0})
    cold = SamplingParams(extra_args={KEY: 8, TEMPERATURE: 0.5})
    added = [(0, hot, None, []), (1, SamplingParams(), None, []), (2, cold, None, [])]
    for together in (added, [(0, hot, None, [])]):  # each its own temperature, and one for all
        processor.update_state(BatchUpdate(batch_size=len(together), removed=(0, 1, 2), added=together, moved=()))
        logits_BV = torch.randn(len(together), 7)
        processor.apply(logits_BV)
        expected = {7: pytest.approx([(logits_BV[0] / 2).log_softmax(-1).mean().item()])}
        if len(together) > 1:
            expected[8] = pytest.approx([(logits_BV[2] * 2).log_softmax(-1).mean().item()])
        assert Worker().take_mean_logprob() == expected
    assert mean_logprob(torch.zeros(2, 8)).tolist() == pytest.approx([-(torch.tensor(8.0).log().item())] * 2)


def test_without_vllm_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setattr(rollout_vllm, "find_spec", lambda name: None)
    with pytest.raises(RlifError, match="vLLM is not installed; `pip install 'rlif\\[vllm\\]'`"):
        VllmSampler("anything")


def test_where_self_certainty_cannot_be_measured(monkeypatch):
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    assert why_no_self_certainty({"tensor_parallel_size": 2}) is None
    assert "speculative" in (why_no_self_certainty({"speculative_config": {"method": "ngram"}}) or "")
    for value, possible in {"0": True, "1": False}.items():
        monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", value)
        assert (why_no_self_certainty({}) is None) is possible


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "vlm"], "unknown engine 'vlm'; did you mean 'vllm'"),
        (["--engine", "vllm", "--rule", "deepconf_mean"], "reads mean_token_confidence, and --engine vllm"),
        (["--engine", "vllm", "--early-stop", "--n", "32"], "--early-stop stops samples while they are drawn"),
        (["--engine", "vllm", "--samples", "rows.jsonl"], "--samples are drawn already, so --engine vllm has nothing"),
    ],
)
def test_options_that_select_by_vllm_lacks_are_refused(options, said):
    with pytest.raises(RlifError, match=said):
        app(["select", "--model", "tiny-reasoner", "--task", "clock", *options], standalone_mode=False)


def test_every_completion_has_its_own_random_stream():
    streams = [stream(seed, prompt, sample) for seed in range(5) for prompt in range(30) for sample in range(20)]
    assert len(set(streams)) == len(streams) and all(0 <= each < 2**63 for each in streams)
