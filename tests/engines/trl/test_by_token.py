"""Tests the keys that change the update of single tokens: whole updates against float64, TRL's weights, resuming."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support import oracle, small_runs
from support.models import byte_tokenizer
from support.trainers import LastLetter, Lengths, kept_tokens, make_trainer

import rlif
from rlif.config.defaults import BY_TOKEN
from rlif.config.loading import check_recipe
from rlif.config.steps import plan_steps
from rlif.config.token_update import TokenUpdate
from rlif.engines.trl.updating.by_token import tokens_within
from rlif.engines.trl.updating.covariance import covariances, largest, random_within
from rlif.engines.trl.updating.weights import token_weights
from rlif.rewards.terms import check_terms
from rlif.sampling.sampler import token_chars
from rlif.tasks import find_task

RATE, CLIP = 0.5, 0.2
SGD = {  # one update is minus the gradient times the rate
    "optim": "sgd",
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_iterations": 2,
    "max_steps": 2,
}


def logps_T(model, row):
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    logits_LV = model(input_ids=ids).logits[0][len(row.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits_LV, -1).gather(1, ids[0, len(row.prompt_ids) :, None]).squeeze(1)


def expected_loss(model, rows, old, update, masked) -> torch.Tensor:
    """GRPO's loss with 1/|o|, clipped, and what the keys change of it: in float64, by lists and not padded tensors."""
    now = [logps_T(model, row) for row in rows]
    kept = [kept_tokens(row.completion_ids) if masked else [True] * len(row.completion_ids) for row in rows]
    flat = [(i, t) for i, keep in enumerate(kept) for t, yes in enumerate(keep) if yes]
    mean_a = math.fsum(rows[i].advantage for i, _ in flat) / len(flat)
    mean_l = math.fsum(now[i][t].item() for i, t in flat) / len(flat)
    cov = {(i, t): (rows[i].advantage - mean_a) * (now[i][t].item() - mean_l) for i, t in flat}
    chosen: set[tuple[int, int]] = set()
    if update and update.kind == "kl_cov":
        chosen = {*sorted(cov, key=lambda place: -cov[place])[: max(1, int(update.resolved_share * len(flat)))]}
    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(rows):
        for t in range(len(row.completion_ids)):
            ratio = (now[i][t] - old[i][t]).exp()
            low, high = ratio * row.advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * row.advantage
            clipped = high.item() < low.item()
            free = update and update.kind == "clip_cov" and not clipped and (i, t) in cov
            if free and update.bounds[0] < cov[i, t] < update.bounds[1]:
                chosen.add((i, t))  # with share 1 all of them are
            policy = -torch.minimum(low, high) * kept[i][t]
            if update and update.kind == "clip_cov":
                policy = policy * ((i, t) not in chosen)
            elif (i, t) in chosen:
                policy = policy + update.coefficient * (now[i][t] - old[i][t]).abs()
            total = total + policy / len(row.completion_ids) / len(rows)
    assert update is None or 0 < len(chosen) < len(flat), "the key changes nothing, or all tokens"
    assert masked == (sum(map(len, kept)) > len(flat) > 0)
    return total


UPDATES = {
    "none": (None, False),
    "kl_cov": (TokenUpdate(kind="kl_cov", share=0.2, coefficient=1.5), False),
    "clip_cov": (TokenUpdate(kind="clip_cov", share=1.0, bounds=(0.3, 5.0)), False),
    "mask_answer": (None, True),
    "kl_cov, mask_answer": (TokenUpdate(kind="kl_cov", share=0.2), True),
    "clip_cov, mask_answer": (TokenUpdate(kind="clip_cov", share=1.0, bounds=(0.3, 5.0)), True),
}


def run(model_folder, update, masked, **options) -> Any:
    trainer = make_trainer(model_folder, task=LastLetter(), **SGD | options)
    trainer.token_update, trainer.mask_answer = update, masked
    trainer.train()
    return trainer


@pytest.mark.daily(every=3)
@pytest.mark.parametrize("case", UPDATES)
def test_two_updates_of_a_rollout_equal_arithmetic_in_float64(case, model_folder):
    """The second is off policy, so that ratios, clipping and the penalty count."""
    update, masked = UPDATES[case]
    trainer = run(model_folder, update, masked)
    (rollout,) = trainer.rollouts
    rows, model = rollout["scored"], copy.deepcopy(trainer.start).double()
    old = [logps_T(model, row).detach() for row in rows]
    for _ in range(2):
        model.zero_grad()
        expected_loss(model, rows, old, update, masked).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= RATE * parameter.grad
    moved = {name: p.detach() - dict(trainer.start.named_parameters())[name] for name, p in model.named_parameters()}
    for name, parameter in trainer.model.named_parameters():
        found = parameter.detach().double() - dict(trainer.start.named_parameters())[name]
        torch.testing.assert_close(found, moved[name], atol=2e-5, rtol=2e-4)
    assert max(change.abs().max().item() for change in moved.values()) > 1e-2


@pytest.mark.daily(every=3)
@pytest.mark.parametrize("loss_type", BY_TOKEN)
@pytest.mark.parametrize("slices", [2, 4])
def test_the_weights_of_tokens_are_those_of_trls_loss(loss_type, slices, model_folder, monkeypatch):
    """On policy the loss is minus the sum of weight times advantage: its gradient by advantages is minus the weight."""
    options = {"loss_type": loss_type, "max_steps": 2, "steps_per_generation": slices, "max_completion_length": 16}
    trainer = make_trainer(model_folder, **options)
    compute_loss, seen = trainer.compute_loss, []

    def looked_at(model, inputs, *args, **kwargs):
        inputs = {name: value for name, value in inputs.items() if name != "old_per_token_logps"}
        mask_BT = inputs["completion_mask"]
        inputs["advantages"] = (inputs["advantages"].unsqueeze(1) * mask_BT).requires_grad_()
        loss = compute_loss(model, inputs, *args, **kwargs)
        (gradient_BT,) = torch.autograd.grad(loss, inputs["advantages"], retain_graph=True)
        torch.testing.assert_close(token_weights(trainer, inputs, mask_BT), -gradient_BT, atol=1e-9, rtol=1e-5)
        seen.append(gradient_BT.abs().sum().item())
        return loss

    monkeypatch.setattr(trainer, "compute_loss", looked_at)
    trainer.train()
    assert len(seen) == 4 and min(seen) > 0.05


def test_no_token_is_chosen_twice_and_the_count_is_rounded_down():
    mask_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    cov_BT = covariances(torch.tensor([[1.0] * 4, [-1.0] * 4]), torch.arange(8.0).view(2, 4), mask_BT)
    tokens = [(1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (-1.0, 4.0), (-1.0, 5.0)]
    expected = [(a - 0.2) * (logp - 2.4) for a, logp in tokens]
    assert cov_BT[mask_BT.bool()].tolist() == pytest.approx(expected, abs=1e-6)
    assert cov_BT[~mask_BT.bool()].tolist() == [-math.inf] * 3
    for share, count in ((1e-9, 1), (0.2, 1), (0.5, 2), (0.99, 4), (1.0, 5)):
        marks = largest(cov_BT, mask_BT, share)
        assert marks.sum() == count and not marks[mask_BT == 0].any()
        assert sorted(cov_BT[marks].tolist()) == pytest.approx(sorted(expected)[-count:], abs=1e-6)
    assert largest(cov_BT * 0, mask_BT * 0, 0.5).sum() == 0


def test_clip_cov_draws_evenly_among_the_tokens_within_its_bounds():
    torch.manual_seed(0)
    cov_BT = torch.tensor([[0.5, 2.0, 3.0, -math.inf], [6.0, 4.0, 1.5, -2.0]])
    mask_BT = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    drawn = sum(random_within(cov_BT, mask_BT, 2 / 7, (1.0, 5.0)).int() for _ in range(2000))
    assert drawn[(cov_BT <= 1) | (cov_BT >= 5)].sum() == 0 and drawn.sum() == 4000
    within = drawn[(cov_BT > 1) & (cov_BT < 5)]
    assert len(within) == 4 and (within - 1000).abs().max() < 4 * math.sqrt(2000 * 0.25)
    assert random_within(cov_BT, mask_BT, 1.0, (7.0, 8.0)).sum() == 0


def test_shares_of_changed_tokens_are_logged(model_folder):
    trainer = run(model_folder, *UPDATES["kl_cov, mask_answer"])
    rows = trainer.rollouts[0]["scored"]
    kept, tokens = (
        sum(sum(kept_tokens(row.completion_ids)) for row in rows),
        sum(len(row.completion_ids) for row in rows),
    )
    logs = [log for log in trainer.state.log_history if "weakened_tokens" in log]
    assert [log["weakened_tokens"] for log in logs] == pytest.approx([int(0.2 * kept) / kept] * 2)
    assert logs[0]["answer_tokens"] == pytest.approx((tokens - kept) / tokens) and 0 < kept < tokens
    assert logs[0]["answer_not_found"] == 0


@pytest.mark.parametrize(
    ("text", "answer"), [("is 7.", "7"), ("is 12.", "12"), ("so \u00e9\u20ac!", "\u00e9\u20ac"), ("7", "7")]
)
def test_all_bytes_of_an_answer_are_its_tokens(text, answer):
    ids = [*byte_tokenizer().encode(text), 1]  # the end of the text makes no character
    chars = token_chars(byte_tokenizer(), ids, text)
    before, size = len(text[: text.index(answer)].encode()), len(answer.encode())
    marks = tokens_within(chars, text.index(answer), text.index(answer) + len(answer)).tolist()
    assert marks == [before <= i < before + size for i in range(len(ids))]


class Unplaced(Lengths):
    """Answers that stand nowhere in the completion."""

    def extract(self, completion: str) -> str | None:
        return None if super().extract(completion) is None else "an answer"


def test_a_completion_whose_answer_is_not_found_has_no_policy_gradient(model_folder):
    trainer = make_trainer(model_folder, task=Unplaced(), **SGD)
    trainer.mask_answer = True
    trainer.train()
    rows = trainer.rollouts[0]["scored"]
    found = [any(advantages) for advantages in trainer.rollouts[0]["advantages"]]
    assert found == [row.answer is None and row.advantage != 0 for row in rows] and 0 < sum(found) < len(rows)
    (share,) = [log["answer_not_found"] for log in trainer.state.log_history if "answer_not_found" in log]
    assert share == sum(row.answer is not None for row in rows) / len(rows)


@pytest.mark.sweep
def test_evaluation_has_trls_loss(model_folder):
    trainer = run(model_folder, *UPDATES["kl_cov, mask_answer"], learning_rate=0.0)
    plain = run(model_folder, *UPDATES["none"], learning_rate=0.0)
    losses = []
    for each in (trainer, plain):
        torch.manual_seed(3)
        losses.append(each.evaluate(each.train_dataset.select(range(8)))["eval_loss"])
    assert losses[0] == losses[1]


@pytest.mark.sweep
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, model_folder):
    """clip_cov draws from the random state, which the checkpoint holds."""
    keys = [
        "token_update={kind: clip_cov, share: 0.3, bounds: [0.05, 9]}",
        "mask_answer=true",
        "normalisation=group_std",
    ]
    whole = small_runs.train(tmp_path / "a", model_folder, *keys)
    half = small_runs.train(tmp_path / "b", model_folder, *keys)
    assert any(row["weakened_tokens"] for row in whole.metrics())
    for folder in half.checkpoints.glob("checkpoint-4"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    resumed = rlif.train(half.recipe(), resume=half)
    assert small_runs.timeless(resumed.metrics()) == small_runs.timeless(whole.metrics())
    assert (resumed.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"token_update": "entropy"}, "token_update.kind in the recipe: input should be 'kl_cov' or 'clip_cov'"),
        ({"token_update": {"kind": "kl_cov", "share": 0}}, "share in the recipe: input should be greater than 0"),
        ({"token_update": {"kind": "kl_cov", "share": 20}}, "less than or equal to 1, found 20"),
        ({"token_update": {"kind": "kl_cov", "coefficient": math.inf}}, "coefficient in the recipe: .*finite"),
        ({"token_update": {"kind": "kl_cov", "bounds": [1, 2]}}, "bounds has no meaning for kl_cov; leave it out"),
        ({"token_update": {"kind": "clip_cov", "coefficient": 2}}, "coefficient has no meaning for clip_cov"),
        ({"token_update": {"kind": "clip_cov", "bounds": [5, 1]}}, r"bounds is \[5.0, 1.0\]; the first must be below"),
        (
            {"token_update": {"kind": "clip_cov", "shares": 1}},
            "token_update.shares' in the recipe; did you mean 'share'",
        ),
        ({"token_update": "clip_cov", "algorithm": "rloo"}, "algorithm rloo weighs whole completions; use grpo"),
        ({"mask_answer": True, "algorithm": "reinforce"}, "mask_answer changes .* but algorithm reinforce weighs"),
        ({"mask_answer": True, "algorithm": "gspo"}, "sequence .gspo. has one ratio for a completion; use grpo"),
        ({"mask_answer": True, "training": {"loss_type": "cispo"}}, "loss_type is 'cispo'; use grpo, bnpo, dr_grpo or"),
        ({"mask_answer": True, "training": {"use_liger_kernel": True}}, "use_liger_kernel may compute the loss"),
        ({"normalisation": "group_rank", "mixing": "sum"}, "group_rank ranks each reward by itself"),
    ],
)
def test_keys_that_cannot_work_are_refused(recipe, message):
    with pytest.raises(rlif.RlifError, match=message):
        check_recipe(recipe)


def test_kl_cov_in_the_only_update_of_a_rollout_is_refused():
    """There the policy is the one that sampled, and the penalty has no gradient."""
    base = {"token_update": "kl_cov", "problems_per_update": 8}
    with pytest.raises(rlif.RlifError, match=r"num_iterations=2, or training.steps_per_generation=16\.$"):
        plan_steps(check_recipe(base), 64, 1)
    for reuse in ({"num_iterations": 2}, {"steps_per_generation": 16}):
        assert plan_steps(check_recipe(base | {"training": reuse}), 64, 1).updates_per_rollout == 2
    assert plan_steps(check_recipe(base | {"token_update": "clip_cov"}), 64, 1).updates_per_rollout == 1


def test_answers_that_are_programs_are_not_masked():
    recipe = check_recipe({"mask_answer": True, "task": "mbpp"})
    with pytest.raises(rlif.RlifError, match="the answers of task mbpp are programs"):
        check_terms(recipe, find_task("mbpp"))


def test_a_name_alone_means_the_papers_values():
    assert check_recipe({"token_update": "clip_cov"}).token_update == TokenUpdate(
        kind="clip_cov", share=None, bounds=(1.0, 5.0)
    )
    shares = {kind: TokenUpdate(kind=kind).resolved_share for kind in ("kl_cov", "clip_cov")}
    assert shares == {"kl_cov": 0.002, "clip_cov": 0.0002}
    recipe = check_recipe({"token_update": {"kind": "clip_cov", "bounds": [0.5, 2]}})
    assert check_recipe(recipe.model_dump(mode="json")) == recipe


def test_advantages_of_a_masked_run_are_recorded_whole(model_folder):
    """The run folder shows a completion's advantage; the mask is of its tokens."""
    rollout = run(model_folder, *UPDATES["mask_answer"]).rollouts[0]
    expected = oracle.group_advantages(rollout["expected"], 4)
    assert [row.advantage for row in rollout["scored"]] == pytest.approx(expected, abs=1e-4)
