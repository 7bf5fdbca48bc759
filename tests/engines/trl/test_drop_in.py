"""Tests rlif.trl: names among TRL's reward functions, and everything else as in TRL."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import datasets
import pytest
import torch
import trl
from support.models import byte_tokenizer, entailment_folder, tiny_model
from support.trainers import LORA, PROMPTS, Lengths, make, sums, trained, upper
from transformers import TrainerCallback
from trl.extras.profiling import ProfilingContext

from rlif.config.recipe import Equivalence
from rlif.engines.trl.trainer import InternalGRPOTrainer
from rlif.errors import RecipeError
from rlif.rewards.equivalence import load_equivalence
from rlif.rewards.mixing import Normaliser
from rlif.tasks import Task
from rlif.trl import Annotator, GRPOTrainer, Guard, InternalFeedback, RLOOTrainer

CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def ending_model():
    """A model whose completions often end before the limit."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[byte_tokenizer().eos_token_id] *= 4
    return model


def logs(trainer):
    return [row for row in trainer.state.log_history if "loss" in row]


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def without_times(rows):
    return [{key: value for key, value in row.items() if "time" not in key and "second" not in key} for row in rows]


def sometimes(completions, **_):
    return [None if len(text) % 2 else float(len(text)) for text in completions]


async def later(completions, **_):
    return [len(text) / 12 for text in completions]


AS_TRL = {
    "one function": (upper, {}),
    "several": ([upper, sums], {"reward_weights": [0.7, 0.3]}),
    "None": ([upper, sometimes], {}),
    "async": ([later, upper], {}),
    "batch": ([upper, sums], {"scale_rewards": "batch"}),
    "each normalised": ([upper, sums], {"multi_objective_aggregation": "normalize_then_sum"}),
    "masked": (upper, {"mask_truncated_completions": True}),
    "two iterations": (upper, {"num_iterations": 2, "beta": 0.04}),
}


@pytest.mark.daily(every=4)
@pytest.mark.parametrize("case", AS_TRL)
def test_without_a_name_of_rlifs_the_trainer_is_trls_to_the_last_bit(case, tmp_path):
    functions, options = AS_TRL[case]
    theirs = trained(functions, trl.GRPOTrainer, tmp_path, **options)
    ours = trained(functions, GRPOTrainer, tmp_path, **options)
    assert without_times(ours.state.log_history) == without_times(theirs.state.log_history)
    assert same(weights(ours), weights(theirs))


def test_rloo_without_a_name_is_trls(tmp_path):
    theirs = trained([upper, sums], trl.RLOOTrainer, tmp_path)
    assert same(weights(trained([upper, sums], RLOOTrainer, tmp_path)), weights(theirs))


def without_init(trainer_class):
    """A trainer as unit tests of TRL's methods make it: only the attributes that the method reads."""
    trainer = object.__new__(trainer_class)
    trainer.accelerator = SimpleNamespace(
        is_main_process=True, device=torch.device("cpu"), gather=lambda values: values
    )
    trainer.args, trainer.model = SimpleNamespace(report_to=[]), SimpleNamespace(training=True)
    trainer.state = SimpleNamespace(global_step=0, num_input_tokens_seen=0)
    trainer.use_vllm, trainer.tools, trainer._is_vlm, trainer.eos_token_ids = False, None, False, [1]
    trainer.environments = trainer.environment_factories = trainer._log_completion_extra = trainer._log_metric = None
    trainer.reward_funcs, trainer.reward_func_names, trainer.reward_processing_classes = [upper], ["upper"], [None]
    trainer.async_reward_funcs, trainer._metrics = [], {"train": defaultdict(list)}
    trainer.processing_class = trainer._tokenizer = byte_tokenizer()
    trainer.rollout_func = lambda prompts, _: {
        "prompt_ids": [[5]] * len(prompts),
        "completion_ids": [[7, 1]] * len(prompts),
        "logprobs": None,
    }
    return trainer


@pytest.mark.parametrize("prompts", [["a", "b"], [CHATS[0]]])
def test_methods_of_a_trainer_without_init_are_trls(prompts):
    theirs, ours = without_init(trl.GRPOTrainer), without_init(GRPOTrainer)
    assert ours._generate(prompts) == theirs._generate(prompts)
    assert ours._tokenize_prompts(["Ab"]) == theirs._tokenize_prompts(["Ab"])
    rewards = ([{"prompt": "a"}], ["a"], ["AbC"], [[7, 8, 9]])
    assert (
        ours._calculate_rewards(*rewards).tolist()
        == theirs._calculate_rewards(*rewards).tolist()
        == [[pytest.approx(2 / 12)]]
    )


def test_without_a_name_of_rlifs_the_sampler_is_trls(tmp_path):
    ours, theirs = (make(upper, each, tmp_path)._get_train_sampler() for each in (GRPOTrainer, trl.GRPOTrainer))
    assert type(ours) is type(theirs)
    assert list(ours) == list(theirs)


def recorded(trainer):
    """Makes a trainer remember the advantages of each rollout."""
    kept, score = [], trainer._generate_and_score_completions

    def remember(inputs):
        output = score(inputs)
        kept.append((output["advantages"].tolist(), [dict(row.rewards) for row in trainer.reward.scored]))
        return output

    trainer._generate_and_score_completions = remember
    return kept


@pytest.mark.parametrize("trainer_class", [GRPOTrainer, RLOOTrainer])
@pytest.mark.parametrize("rows", [PROMPTS, CHATS], ids=["text", "conversations"])
def test_a_signal_beside_a_function_has_trls_metrics_and_advantages(trainer_class, rows, tmp_path):
    trainer = make(["self_certainty", upper], trainer_class, tmp_path, {"prompt": rows * 4}, reward_weights=[0.5, 2.0])
    if rows is CHATS:
        trainer.reward_funcs[1] = lambda completions, **_: upper([turns[0]["content"] for turns in completions])
    kept = recorded(trainer)
    trainer.train()
    last = logs(trainer)[-1]
    advantages, rewards = kept[-1]
    certainty = torch.tensor([row["self_certainty"] for row in rewards], dtype=torch.float64)
    other = torch.tensor([row["upper"] for row in rewards], dtype=torch.float64)
    assert last["rewards/self_certainty/mean"] == pytest.approx(certainty.mean().item(), rel=1e-6)
    assert last["rewards/self_certainty/std"] == pytest.approx(certainty.std().item(), rel=1e-6)
    assert last["rewards/upper/mean"] == pytest.approx(other.mean().item(), rel=1e-6)
    sum_PG = (0.5 * certainty + 2 * other).view(-1, 4)
    if trainer_class is GRPOTrainer:
        expected = (sum_PG - sum_PG.mean(1, keepdim=True)) / (sum_PG.std(1, keepdim=True) + 1e-4)
    else:
        expected = (sum_PG - sum_PG.mean(1, keepdim=True)) * 4 / 3
    assert advantages == pytest.approx(expected.flatten().tolist(), abs=1e-4)


def test_normalisation_scales_every_column_and_leaves_the_metrics_true(tmp_path):
    ours = {"normalisation": "group_std"}
    trainer = make(["self_certainty", upper], tmp_path=tmp_path, ours=ours, reward_weights=[1.0, 3.0])
    kept = recorded(trainer)
    trainer.train()
    advantages, rewards = kept[-1]
    columns = [
        torch.tensor([row[name] for row in rewards], dtype=torch.float64).view(-1, 4)
        for name in ("self_certainty", "upper")
    ]
    scaled = [Normaliser("group_std")(column) for column in columns]
    expected = sum(w * (s - s.mean(1, keepdim=True)) for w, s in zip([1.0, 3.0], scaled, strict=True))
    assert advantages == pytest.approx(expected.flatten().tolist(), abs=1e-4)
    last = logs(trainer)[-1]
    assert last["rewards/upper/std"] == pytest.approx(columns[1].flatten().std().item(), rel=1e-6)
    assert list(trainer._logs["rewards"]["upper"])[-8:] == pytest.approx(columns[1].flatten().tolist())


def test_a_missing_signal_does_not_count_as_zero_beside_another_reward(tmp_path):
    ours = {"model": ending_model()}
    trainer = make(["self_certainty", upper], tmp_path=tmp_path, ours=ours, mask_truncated_completions=True)
    kept = recorded(trainer)
    trainer.train()
    seen = 0
    for advantages, rewards in kept:
        for start in range(0, len(rewards), 4):
            group = rewards[start : start + 4]
            known = [row["self_certainty"] for row in group if row["self_certainty"] is not None]
            if 0 < len(known) < 4:
                mean = sum(known) / len(known)
                values = [(mean if r["self_certainty"] is None else r["self_certainty"]) + r["upper"] for r in group]
                values = torch.tensor(values, dtype=torch.float64)
                expected = (values - values.mean()) / (values.std() + 1e-4)
                assert advantages[start : start + 4] == pytest.approx(expected.tolist(), abs=1e-3)
                seen += 1
    assert seen


@pytest.mark.daily(every=4)
@pytest.mark.parametrize("options", [{}, {"num_iterations": 2}, {"beta": 0.04}, {"loss_type": "dapo"}])
def test_the_check_of_the_signal_changes_neither_samples_nor_logs(options, tmp_path):
    first = make(["self_certainty"], tmp_path=tmp_path, **options)
    first.train()
    second = make(["self_certainty"], tmp_path=tmp_path, **options)
    second.verified = True
    second.train()
    assert without_times(first.state.log_history) == without_times(second.state.log_history)
    assert same(weights(first), weights(second))


def test_the_check_of_the_signal_tells_trackers_nothing(tmp_path, monkeypatch):
    """TRL gives them the time of each generation, also before they are set up."""
    told: list[list[str]] = []
    monkeypatch.setattr(ProfilingContext, "_log_metrics", lambda self, _: told.append(self.report_to))
    trainer = make(["self_certainty"], tmp_path=tmp_path)
    trainer.args.report_to = ["trackio"]
    trainer.verify_signal()
    assert told and not any(told) and trainer.args.report_to == ["trackio"]


def test_group_signals_and_graders_read_the_data_set(tmp_path):
    answers = [str(n % 3) for n in range(16)]
    rows = {"prompt": PROMPTS * 4, "answer": answers}
    names = ("plurality_vote", "accuracy", "format")  # as a tuple, which TRL does not take
    trainer = make(names, tmp_path=tmp_path, rows=rows, ours={"task": Lengths()})
    kept = recorded(trainer)
    trainer.train()
    assert {f"rewards/{name}/mean" for name in names} <= logs(trainer)[-1].keys()
    assert {row["accuracy"] for _, rewards in kept for row in rewards} == {0.0, 1.0}
    assert {row["plurality_vote"] for _, rewards in kept for row in rewards} <= {0.0, 1.0, None}
    assert "extra_passes" not in logs(trainer)[-1] or logs(trainer)[-1]["extra_passes"] == 0


def test_semantic_entropy_reads_the_model_of_equivalence(tmp_path):
    entails = entailment_folder(tmp_path / "entails")
    ours = {"equivalence": {"entailment": entails}}
    trainer = trained(["semantic_entropy", upper], tmp_path=tmp_path, ours=ours, max_completion_length=8)
    cluster_texts, scored, sizes = load_equivalence(Equivalence(entailment=entails)), trainer.reward.scored, set()
    for group in (scored[start : start + 4] for start in range(0, len(scored), 4)):
        together = cluster_texts(group[0].prompt, [row.text for row in group])
        expected = {member: math.log(len(members) / 4) for members in together for member in members}
        for n, row in enumerate(group):
            assert row.rewards["semantic_entropy"] in (None, pytest.approx(expected[n]))
        sizes |= {len(members) for members in together}
    assert scored and len(sizes) > 1


class Graded(Lengths):
    mark = Task.mark


def test_accuracy_rewards_the_rows_that_have_gold(tmp_path):
    rows = {"prompt": PROMPTS * 4, "gold": ["1", None] * 8}
    trainer = make(["accuracy", "self_certainty"], tmp_path=tmp_path, rows=rows, ours={"task": Graded()})
    kept = recorded(trainer)
    trainer.train()
    assert {type(row["accuracy"]) for _, rewards in kept for row in rewards} == {float, type(None)}


@pytest.mark.parametrize("annotator", ["offline", "ema", "lagged", Annotator("ema", decay=0.5)])
def test_annotators_by_keyword(annotator, tmp_path):
    trainer = trained("self_certainty", tmp_path=tmp_path, ours={"annotator": annotator})
    assert trainer.shadow is not None and logs(trainer)[-1]["extra_passes"] == 1


def test_adapters_and_evaluation(tmp_path):
    trainer = make(
        ["self_certainty", upper],
        tmp_path=tmp_path,
        ours={"peft_config": LORA, "eval_dataset": {"a": datasets.Dataset.from_dict({"prompt": PROMPTS})}},
        eval_strategy="steps",
        eval_steps=1,
        num_generations_eval=2,
        per_device_eval_batch_size=4,
    )
    trainer.train()
    assert any(
        "eval_a_rewards/self_certainty/mean" in row or "eval_rewards/self_certainty/mean" in row
        for row in trainer.state.log_history
    )


def test_a_resumed_run_is_the_same_run(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "ours": {"normalisation": "group_std_floor"}}
    whole = trained(["self_certainty", upper], tmp_path=tmp_path / "a", **options)
    options["ours"] = {"normalisation": "group_std_floor"}
    again = make(["self_certainty", upper], tmp_path=tmp_path / "b", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert again.mixer.state() == whole.mixer.state()
    assert same(weights(whole), weights(again))


def test_streams_are_trained_on_and_checked(tmp_path):
    stream = datasets.Dataset.from_dict({"prompt": PROMPTS * 4}).to_iterable_dataset()
    trainer = trained("self_certainty", tmp_path=tmp_path, rows=stream)
    assert trainer.verified and math.isfinite(logs(trainer)[-1]["rewards/self_certainty/mean"])


def test_the_mixin_serves_a_subclass_of_ones_own(tmp_path):
    class Mine(trl.GRPOTrainer):
        seen = 0

        def _calculate_rewards(self, *args, **kwargs):
            self.seen += 1
            return super()._calculate_rewards(*args, **kwargs)

    trainer = trained(["self_certainty"], type("Both", (InternalFeedback, Mine), {}), tmp_path)
    assert trainer.seen == 2 and "rewards/self_certainty/mean" in logs(trainer)[-1]


def test_the_model_card_names_trls_method(tmp_path):
    trainer = make("self_certainty", tmp_path=tmp_path)
    assert trainer._name == trl.GRPOTrainer._name


def test_the_guard_watches_without_a_run_folder(tmp_path, caplog):
    ours = {"guard": {"policy": "stop", "start": 1, "window": 1, "patience": 1, "truncated": 1e-9, "shorter": 0.99}}
    trainer, seen = make("self_certainty", tmp_path=tmp_path, ours=ours, max_steps=30, learning_rate=0.05), []
    tracker = type("Tracker", (TrainerCallback,), {"on_log": lambda self, *_, logs, **__: seen.append(dict(logs))})
    trainer.add_callback(tracker)
    trainer.train()
    assert trainer.state.global_step < 30
    said = [record.message for record in caplog.records if record.message.startswith("guard: ")]
    assert any(line.startswith("guard: alarm at step") and "Try: " in line for line in said)
    assert not any("training." in line for line in said) and said[0].startswith("guard: beta is 0, so KL")
    step = trainer.state.global_step
    assert said[-1].startswith(f"guard: training ended at step {step}, by the alarm ")
    assert said[-1].endswith(f"; its checkpoint is {tmp_path}/checkpoint-{step}")
    assert (tmp_path / f"checkpoint-{step}/model.safetensors").is_file()
    assert "repetition" in seen[0] and "rewards/self_certainty/mean" in seen[0]
    with pytest.raises(RecipeError, match="rollback needs the run folder of `rlif train`"):
        make("self_certainty", tmp_path=tmp_path, ours={"guard": Guard(policy="rollback")})


def test_old_names_go_on_working():
    assert InternalGRPOTrainer is GRPOTrainer
