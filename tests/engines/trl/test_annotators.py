"""Tests annotators, the models whose confidence is the reward: the start, a moving average, a lagged copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import oracle
from support.models import tiny_model
from support.trainers import LORA, make_trainer

import rlif
from rlif.engines.trl.measuring.annotator import FILE, Annotator, Shadow
from rlif.training.prepare import prepare

EMA, LAGGED = Annotator("ema", decay=0.6), Annotator("lagged", every=2)
COPY = Annotator("offline", may_copy=True)


def annotators(trainer, annotator):
    """Computes the annotator's parameters at each rollout from the history of the policy's parameters."""
    shadow, found = trainer.history[0], []
    for step, policy in enumerate(trainer.history):
        if annotator.kind == "ema" and step:
            shadow = {name: annotator.decay * s + (1 - annotator.decay) * policy[name] for name, s in shadow.items()}
        if annotator.kind == "lagged" and step % annotator.every == 0:
            shadow = policy
        found.append(shadow)
    return found


@pytest.mark.daily(every=5)
@pytest.mark.parametrize("annotator", [EMA, LAGGED, COPY], ids=lambda a: a.kind)
@pytest.mark.parametrize(
    "changes", [{}, {"peft_config": LORA}, {"beta": 0.04}, {"algorithm": "rloo"}], ids=["full", "lora", "beta", "rloo"]
)
def test_rewards_are_the_annotators_self_certainty(annotator, changes, model_folder):
    trainer = make_trainer(model_folder, annotator=annotator, max_steps=4, **changes)
    trainer.train()
    model, free = trainer.start, annotator.kind == "offline" and ("beta" in changes)
    for rollout, parameters in zip(trainer.rollouts, annotators(trainer, annotator), strict=True):
        assert rollout["path"] == ("reference" if free else "pass")
        model.load_state_dict(parameters, strict=False)
        for row in rollout["scored"]:
            expected = oracle.self_certainty(model, row.prompt_ids, row.completion_ids)
            assert row.reward == pytest.approx(expected, abs=2e-4)
    moved = max(
        (a - b).abs().max() for a, b in zip(trainer.history[0].values(), trainer.history[-1].values(), strict=True)
    )
    assert moved > 1e-3, "the policy did not move, so the annotators could not be told apart"
    completions = sum(len(rollout["scored"]) for rollout in trainer.rollouts)
    passes = (0 if free else 1) + ("algorithm" in changes)  # RLOO's own pass reads the policy only
    assert trainer.rows["policy"] == passes * completions


def test_the_annotator_does_not_change_the_policy(model_folder):
    """Swapping the annotator in and out restores the same tensors, also if the pass fails."""
    model = tiny_model()
    shadow = Shadow(model, COPY)
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    with shadow.swapped():
        assert torch.equal(model.lm_head.weight, before["lm_head.weight"][2])
    with pytest.raises(ZeroDivisionError), shadow.swapped():
        raise ZeroDivisionError
    for name, p in model.named_parameters():
        assert p is before[name][0] and p.data_ptr() == before[name][1]
    assert torch.equal(model.lm_head.weight, before["lm_head.weight"][2] + 1.0)


def test_a_moving_average_of_bfloat16_weights_follows_small_steps():
    """bfloat16 would round such steps away, so the copy is float32; the pass uses the model's own type."""
    model = tiny_model().bfloat16()
    shadow = Shadow(model, Annotator("ema", decay=0.999))
    start = model.lm_head.weight.detach().clone().float()
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    for step in range(3):
        shadow.follow(step + 1)
    expected = start + (1 - 0.999**3) * (model.lm_head.weight.detach().float() - start)
    torch.testing.assert_close(shadow.copies["lm_head.weight"], expected, rtol=1e-5, atol=1e-7)
    with shadow.swapped():
        assert model.lm_head.weight.dtype == torch.bfloat16
    assert shadow.gibibytes() == 4 * sum(p.numel() for p in model.parameters()) / 2**30


@pytest.mark.sweep
@pytest.mark.parametrize("annotator", [EMA, LAGGED, COPY], ids=lambda a: a.kind)
def test_a_resumed_run_equals_an_uninterrupted_run(annotator, tmp_path, model_folder):
    options = {"annotator": annotator, "output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 3}
    trainer = make_trainer(model_folder, max_steps=6, **options)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-3"
    assert (checkpoint / FILE).is_file() == (annotator.kind != "offline")
    again = make_trainer(model_folder, max_steps=6, **options)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert [r["advantages"] for r in again.rollouts] == [r["advantages"] for r in trainer.rollouts[3:]]
    for name, p in trainer.model.named_parameters():
        assert torch.equal(p, dict(again.model.named_parameters())[name])
        assert torch.equal(trainer.shadow.copies[name], again.shadow.copies[name])
    if annotator.kind == "lagged":
        kept = load_file(checkpoint / FILE)
        assert all(torch.equal(kept[name], trainer.history[2][name]) for name in kept)


@pytest.mark.sweep
def test_checkpoints_with_another_annotator_or_model_are_refused(tmp_path, model_folder):
    options = {"output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(model_folder, **options).train()
    again = make_trainer(model_folder, annotator=EMA, **options | {"max_steps": 2})
    with pytest.raises(rlif.RlifError, match=f"has no {FILE}, so annotator ema cannot go on"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    Shadow(tiny_model(hidden_size=16), LAGGED).save(tmp_path / "checkpoint-1")
    with pytest.raises(rlif.RlifError, match="holds other parameters than this model trains"):
        make_trainer(model_folder, annotator=EMA).shadow.load(Path(tmp_path / "checkpoint-1"))


def test_offline_annotator_of_lora_is_the_model_without_adapters(model_folder):
    """It needs no copy, also with beta 0."""
    trainer = make_trainer(model_folder, annotator="offline", peft_config=LORA, max_steps=3)
    trainer.train()
    assert trainer.shadow is None
    for rollout in trainer.rollouts:
        assert rollout["path"] == "pass"
        assert [row.reward for row in rollout["scored"]] == pytest.approx(rollout["expected"], abs=2e-4)


def test_out_of_memory_for_a_copy_is_explained(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise torch.OutOfMemoryError("no")

    model = tiny_model()
    monkeypatch.setattr(torch.Tensor, "to", refuse)
    with pytest.raises(rlif.RlifError, match=r"annotator lagged keeps a copy of the trained parameters, 0\.\d+ GiB"):
        Shadow(model, LAGGED)


def test_offline_annotator_without_a_reference_model_asks_before_copying(model_folder):
    with pytest.raises(rlif.RlifError, match=r"training.beta above 0.*lora.*a copy of .* GiB .*annotator_copy=true"):
        make_trainer(model_folder, annotator="offline")
    recipe = rlif.load_recipe("demo", ["annotator=offline", "training.beta=0", f"model={model_folder}"])
    with pytest.raises(rlif.RlifError, match=r"a copy of .* GiB on each device"):
        prepare(recipe)
    allowed = rlif.load_recipe(
        "demo",
        [
            "annotator=offline",
            "training.beta=0",
            f"model={model_folder}",
            "annotator_copy=true",
            "max_prompt_tokens=512",
        ],
    )
    assert prepare(allowed).recipe.annotator == "offline"
