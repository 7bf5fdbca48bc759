"""Tests that training reads exact statistics on every architecture and every path, or refuses before step 1."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from support import oracle
from support.architectures import OWN, SIZES, architecture
from support.models import tiny_model
from support.trainers import make_trainer
from transformers import AutoConfig, AutoModelForCausalLM

import rlif
from rlif.scoring.exactness import random_state_kept

PATHS: dict[str, dict[str, Any]] = {
    "decode": {},
    "policy": {"num_iterations": 2},
    "reference": {"beta": 0.04, "annotator": "offline"},
    "pass": {"reward": {"likelihood": 1.0}},
}
DAILY = {  # and the path that is taken instead, where one is
    ("gpt2", 0.0, "decode"): "decode",
    ("gpt2", 0.0, "policy"): "decode",  # positions shift in TRL's pass, not in `generate`
    ("gpt_neo", 0.0, "reference"): "pass",
    ("opt", 0.1, "decode"): "pass",  # dropout by a function, which no list of modules shows
    ("falcon", 0.1, "policy"): "pass",
    ("starcoder2", 0.1, "pass"): "pass",
    ("gemma2", 0.0, "policy"): "policy",  # a soft cap
    ("qwen3_moe", 0.0, "decode"): "decode",  # a router
    ("bart", 0.0, "policy"): "pass",  # a decoder within a wrapper, with learned positions
}
REFUSED = ("bert", "recurrent_gemma", "roberta")
# Each architecture on each path of the engine, and with dropout on one path in turn, a pass of our own among them.
EVERY = [
    (name, dropout, path)
    for i, name in enumerate(OWN)
    for dropout in (0.0, 0.1)
    for j, path in enumerate(PATHS)
    if (path != "pass" if not dropout else j == i % len(PATHS)) or (name, dropout, path) in DAILY
]


def trained(folder: Path, name: str, dropout: float, path: str) -> Any:
    model = architecture(name, dropout)
    model.save_pretrained(folder)
    model.config._name_or_path = str(folder)  # TRL loads the reference model from there
    trainer = make_trainer(folder, model=model, max_steps=1, **PATHS[path])
    trainer.train()
    return trainer


def expected(trainer: Any, row: Any, path: str) -> float:
    if path != "pass":
        return oracle.self_certainty(trainer.start, row.prompt_ids, row.completion_ids)
    logp_TV = oracle.logprobs_TV(trainer.start, row.prompt_ids, row.completion_ids)
    return logp_TV[range(len(row.completion_ids)), row.completion_ids].mean().item()


@pytest.mark.parametrize(
    ("name", "dropout", "path"),
    [pytest.param(*case, marks=() if case in DAILY else pytest.mark.sweep) for case in EVERY],
)
def test_the_signal_is_exact_or_refused(name, dropout, path, tmp_path):
    if name in REFUSED:
        with pytest.raises(rlif.RlifError, match="cannot be scored exactly"):
            trained(tmp_path, name, dropout, path)
        return
    trainer = trained(tmp_path, name, dropout, path)
    (rollout,) = trainer.rollouts
    assert len({len(row.prompt_ids) for row in rollout["scored"]}) > 1, "nothing was padded"
    for row in rollout["scored"]:
        assert row.reward == pytest.approx(expected(trainer, row, path), abs=1e-4)
    assert rollout["path"] == DAILY.get((name, dropout, path), rollout["path"])


def test_what_is_not_read_is_said(tmp_path, caplog):
    trained(tmp_path, "gpt2", 0.1, "policy")
    policy, decode = (record.getMessage() for record in caplog.records if "path" in record.getMessage())
    assert policy == "GPT2LMHeadModel: the path 'policy' draws random numbers, as dropout does; decode is read instead"
    assert decode.endswith("as dropout does; a pass of rlif's own is read instead")


def test_the_check_changes_neither_random_state_nor_log_nor_modes(model_folder):
    trainer = make_trainer(model_folder)
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    metrics, modes = copy.deepcopy(trainer._metrics), [module.training for module in trainer.model.modules()]
    trainer.verify_signal()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), numpy.random.get_state()[1].tolist())
    assert trainer._metrics == metrics and trainer.state.num_input_tokens_seen == 0
    assert modes == [module.training for module in trainer.model.modules()]
    assert trainer.rollout is None and trainer.generation_config.do_sample


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random, numpy.random.rand])
def test_drawing_random_numbers_is_noticed_and_undone(draw):
    with random_state_kept(torch.device("cpu")) as drew:
        assert not drew()
        first = float(draw())
        assert drew()
    assert float(draw()) == first


def changed(read: Any) -> Any:
    """Makes a model whose hidden states change by what `read` takes from all of them."""
    model = tiny_model()

    def add(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state + read(output.last_hidden_state)
        return output

    model.model.register_forward_hook(add)
    return model


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda hidden: hidden.mean(1, keepdim=True), "reads the tokens that come after.*use a causal"),
        (lambda hidden: hidden.mean(0, keepdim=True), r"own in eval mode is \d.* nats a token off.*rewards that read"),
    ],
    ids=["later tokens", "other rows"],
)
def test_what_no_pass_measures_is_refused(read, message, model_folder):
    with pytest.raises(rlif.RlifError, match=message):
        make_trainer(model_folder, model=changed(read), reward={"negative_entropy": 1.0}).train()


def test_a_fault_is_larger_than_the_rounding_of_bfloat16(model_folder):
    model = changed(lambda hidden: hidden.mean(0, keepdim=True)).bfloat16()
    with pytest.raises(rlif.RlifError, match=r"nats a token off an unpadded pass \(limit 0.3\)"):
        make_trainer(model_folder, model=model, reward={"negative_entropy": 1.0}).train()


def test_rewards_of_text_alone_need_no_statistics(model_folder):
    model = changed(lambda hidden: hidden.mean(0, keepdim=True))
    trainer = make_trainer(model_folder, model=model, reward={"length": 1.0}, max_steps=1)
    trainer.train()
    assert trainer.rollouts[0]["path"] == "none"
    assert all(row.token_self_certainty is None for row in trainer.rollouts[0]["scored"])


def test_a_model_that_does_not_fit_the_engine_is_refused_in_one_sentence(model_folder):
    """Multimodal Gemma-3 asks for the kinds of tokens in training mode."""
    model = tiny_model()
    forward = model.forward

    def refuse(*args: Any, **kwargs: Any) -> Any:
        if model.training:
            raise ValueError("`token_type_ids` are required as a model input when training\nmore")
        return forward(*args, **kwargs)

    model.forward = refuse
    message = r"^Qwen2ForCausalLM fails in the passes that training runs: `token_type_ids`.*ing; use another model\.$"
    with pytest.raises(rlif.RlifError, match=message):
        make_trainer(model_folder, model=model).train()


def test_a_term_of_routers_that_cannot_be_computed_is_refused_before_anything_is_generated(model_folder):
    """Doge has the option of routers and none of them unless asked; TRL's loss asks for their logits.

    Its attention is "eager", because in transformers 5.0 "sdpa" reads the tokens that come after.
    """
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("doge", **SIZES), attn_implementation="eager")
    with pytest.raises(rlif.RlifError, match=r"DogeForCausalLM fails .*or training\.router_aux_loss_coef=0\.$"):
        make_trainer(model_folder, model=model).verify_signal()
    make_trainer(model_folder, model=model, router_aux_loss_coef=0.0, max_steps=1).train()
