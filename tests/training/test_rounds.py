"""Tests whole runs in rounds, from recipe to run folder, on a tiny random model."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from support.small_rounds import lines, small, timeless, train
from transformers import AutoModelForCausalLM

import rlif
from rlif.errors import DataError, MachineError, RecipeError
from rlif.runs.folder import Run
from rlif.runs.phase import phases_of
from rlif.tasks import TASKS
from rlif.training.rounds.data import bare, problems_of, seed_of

DPO = ("algorithm=dpo", "rounds.reference=last", "rounds.against=worst")


@pytest.fixture(scope="module")
def sft(tmp_path_factory, model_folder) -> Run:
    return train(model_folder, tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="module")
def dpo(tmp_path_factory, model_folder) -> Run:
    return train(model_folder, tmp_path_factory.mktemp("dpo"), *DPO)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_run_folder_holds_rounds_and_all_that_other_runs_have(sft):
    names = {path.name for path in sft.path.iterdir()} - {".lock"}
    expected = "recipe.yaml environment.json begun.json metrics.jsonl completions eval checkpoints model summary.json"
    assert names == {*expected.split(), "rounds"}
    for number in (1, 2):
        folder = sft.path / f"rounds/round-{number:03d}"
        assert {path.name for path in folder.iterdir()} - {".lock"} == {
            "settings.json", "sampling.json", "samples.jsonl", "data.jsonl", "kept.jsonl", "round.json"
        }  # fmt: skip
    # Four examples in batches of two make two steps a round; the model of each round stays, with its step over all.
    assert [row["step"] for row in sft.metrics()] == [1, 2, 3, 4]
    assert [row["round"] for row in sft.metrics()] == [1, 1, 2, 2]
    assert sorted(path.name for path in sft.checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert sorted(sft.evaluations()["cups"]) == [0, 2, 4]
    assert sft.summary()["steps"] == 4 and sft.summary()["evaluations"]["cups"]["after"]["accuracy"]["n"] == 2
    assert (sft.model / "README.md").is_file() and not (sft.model / "phase.json").exists()
    last, model = weights(sft.checkpoints / "checkpoint-4"), weights(sft.model)
    assert all(torch.equal(last[name], model[name]) for name in last)


def test_each_step_logs_what_was_measured_of_the_samples_it_trains_on(sft):
    for number, rows in ((1, sft.metrics()[:2]), (2, sft.metrics()[2:])):
        samples = lines(sft.path / f"rounds/round-{number:03d}/samples.jsonl")
        assert len(samples) == 12 and all(row["right"] is None for row in samples)  # no gold reaches a round
        for row in rows:
            assert row["self_certainty"] == pytest.approx(
                math.fsum(s["self_certainty"] for s in samples) / 12, rel=1e-12
            )
            assert row["reward"] == row["self_certainty"]
            assert row["completion_length"] == sum(s["tokens"] for s in samples) / 12
            assert row["truncated"] == sum(s["truncated"] for s in samples) / 12
            assert row["samples"] == 12 and row["examples"] == 4
    sampled = [sum(s["tokens"] for s in lines(p)) for p in sorted(sft.path.glob("rounds/*/samples.jsonl"))]
    assert [row["sampled_tokens"] for row in sft.metrics()] == [sampled[0]] * 2 + [sum(sampled)] * 2
    tokens = [row["tokens"] for row in sft.metrics()]
    assert tokens[0] == tokens[1] < tokens[2] and tokens[0] > sampled[0]  # prompts count as well


def test_a_round_trains_on_the_surest_completion_of_each_problem_as_it_was_sampled(sft):
    folder = sft.path / "rounds/round-001"
    samples, examples = lines(folder / "samples.jsonl"), lines(folder / "data.jsonl")
    for i, example in enumerate(examples):
        group = samples[3 * i :][:3]
        surest = max(group, key=lambda row: row["self_certainty"])
        assert example["id"] == surest["id"] and example["chosen_ids"] == surest["completion_ids"]
        assert example["rejected_ids"] is None


def test_a_pair_is_the_surest_and_the_least_sure_completion(dpo):
    folder = dpo.path / "rounds/round-002"
    samples, examples = lines(folder / "samples.jsonl"), lines(folder / "data.jsonl")
    for i, example in enumerate(examples):
        group = sorted(samples[3 * i :][:3], key=lambda row: row["self_certainty"])
        assert example["chosen_ids"] == group[-1]["completion_ids"]
        assert example["rejected_ids"] == group[0]["completion_ids"]
        assert example["values"] == [group[-1]["self_certainty"], group[0]["self_certainty"]]
    row = dpo.metrics()[-1]
    assert {"margin", "preference_accuracy", "chosen_logprob", "rejected_logprob", "trained_entropy"} <= set(row)
    assert "entropy" not in row  # which is that of sampling, in online phases


def test_the_first_loss_of_dpo_is_log_2_and_of_sft_the_mean_nll(sft, dpo, model_folder):
    assert dpo.metrics()[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)  # policy and reference are the same
    model = AutoModelForCausalLM.from_pretrained(model_folder).double()
    losses = []
    for example in lines(sft.path / "rounds/round-001/data.jsonl"):
        prompt, chosen = example["prompt_ids"], example["chosen_ids"]
        logp_TV = model(torch.tensor([prompt + chosen])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        losses.append(-logp_TV[range(len(chosen)), chosen])
    pairs = [(i, j) for i in range(4) for j in range(i)]  # which two are first is the seed's
    means = [torch.cat([losses[i], losses[j]]).mean().item() for i, j in pairs]
    assert any(sft.metrics()[0]["loss"] == pytest.approx(mean, rel=1e-5) for mean in means)


def test_completions_for_the_report_are_graded_for_the_record_alone(sft):
    kept = lines(sft.path / "completions/step-000003.jsonl")
    assert len(kept) == 6 and all(row["step"] == 3 and row["right"] in (True, False) for row in kept)
    assert kept[0]["gold"] and kept[0]["rewards"] == {"self_certainty": kept[0]["reward"]}
    assert not list(sft.path.glob("completions/step-000002.jsonl"))


@pytest.mark.sweep
def test_restart_and_reference_choose_the_weights(tmp_path, model_folder):
    """With one round's data repeated, training from the base gives the model of a round that began there."""
    recipe = small(model_folder, tmp_path, *DPO, "rounds.restart=base", "rounds.reference=base")
    run = rlif.train(recipe, console=Console(quiet=True))
    # Round 2 begins at the base and compares with the base: the first loss is log 2 again.
    assert run.metrics()[2]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    moved = train(model_folder, tmp_path / "last", *DPO, "rounds.reference=base")
    assert moved.metrics()[2]["loss"] != pytest.approx(math.log(2), abs=1e-4)  # the base against the last one


def logprobs(model, example):
    """The log-probabilities of the chosen and the rejected completion, in float64."""
    found = []
    for ids in (example["chosen_ids"], example["rejected_ids"]):
        prompt = example["prompt_ids"]
        with torch.no_grad():
            logp_TV = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(logp_TV[range(len(ids)), ids].sum().item())
    return found


def first_loss(policy, reference, run, number):
    """DPO's loss of all pairs of a round, with beta 0.1, in float64."""
    losses = []
    for example in lines(run.path / f"rounds/round-{number:03d}/data.jsonl"):
        chosen, rejected = (a - b for a, b in zip(*(logprobs(m, example) for m in (policy, reference)), strict=True))
        losses.append(math.log1p(math.exp(-0.1 * (chosen - rejected))))
    return sum(losses) / len(losses)


LORA = "lora={r: 4, target_modules: [q_proj, v_proj], init_lora_weights: true}"


@pytest.mark.sweep
def test_adapters_of_the_round_before_are_the_reference_where_training_restarts(tmp_path, model_folder):
    run = train(model_folder, tmp_path, *DPO, LORA, "rounds.restart=base", "problems_per_update=4")
    base = AutoModelForCausalLM.from_pretrained(model_folder).double()
    before = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_folder), run.checkpoints / "checkpoint-1"
    ).double()
    first = run.metrics()[1]["loss"]
    assert first == pytest.approx(first_loss(base, before, run, 2), abs=1e-6)
    assert first != pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.sweep
def test_the_reference_of_adapters_is_the_start_whatever_they_begin_with(tmp_path, model_folder):
    """These begin with a part of the weights, so that with adapters off the model is another than the start."""
    run = train(model_folder, tmp_path, *DPO, LORA.replace("true", "pissa"))
    for step, row in enumerate(run.metrics()):
        start = row["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are the same
        assert start == (step in (0, 2)), step


@pytest.mark.sweep
def test_a_trained_adapter_is_kept_without_its_reference(tmp_path, model_folder):
    run = train(model_folder, tmp_path, *DPO, LORA)
    assert (run.model / "adapter_model.safetensors").is_file()
    assert not [path for path in (*run.checkpoints.iterdir(), run.model) if (path / "ref").exists()]


@pytest.mark.sweep
def test_a_round_goes_on_only_as_it_was_begun(tmp_path, model_folder, monkeypatch):
    from rlif.training.rounds import data

    monkeypatch.setattr(data, "write_verdicts", lambda *_: (_ for _ in ()).throw(DataError("stopped here.")))
    with pytest.raises(DataError, match="stopped here"):
        train(model_folder, tmp_path)
    monkeypatch.undo()
    run = Run.open(tmp_path / "run")
    other = small(model_folder, tmp_path, "training.temperature=0.5", "rounds.options={}")
    with pytest.raises(
        DataError, match=r"round-001 was begun with other settings of sampling \(temperature\)"
    ) as error:
        rlif.train(other, resume=run, console=Console(quiet=True))
    assert "remove that folder, and go on with" in str(error.value)
    assert rlif.train(run.recipe(), resume=run, console=Console(quiet=True)).is_finished


def test_the_report_and_the_comparison_read_a_run_in_rounds(sft, dpo, tmp_path):
    from rlif.comparison.comparison import compare

    page, verdicts = rlif.report([sft.path, dpo.path], tmp_path / "page.html")
    assert page.is_file() and len(verdicts) == 2
    found = compare([sft.path])
    assert found.rows[0].task == "cups" and found.runs[0].steps == 4


def test_problems_of_rounds_are_the_next_ones_of_a_pass():
    problems = TASKS["clock"].load("train", limit=10)
    rounds = [[p.id for p in problems_of(problems, 4, number, seed=1)] for number in range(1, 5)]
    assert len({*rounds[0], *rounds[1]}) == 8 == len({*rounds[2], *rounds[3]})
    assert rounds[0] != rounds[2]  # another pass has another order
    assert problems_of(problems, None, 3, seed=1) == problems
    assert len({seed_of(seed, number) for seed in range(20) for number in range(20)}) == 400
    assert all(p.gold is None and p.solution is None for p in bare(problems))


# What is refused, each in one sentence, with nothing lost.


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("algorithm=dpo",), "algorithm dpo compares the policy with a reference model; set rounds.reference"),
        (("rounds.choose=best",), "unknown rounds.choose 'best'"),
        (
            ("rounds.options={alpha: 1}",),
            "rounds.options are of methods that have any: calibrated, deduction, foresight",
        ),
        (("rounds.sample=half",), "unknown rounds.sample 'half'"),
        ((*DPO, "rounds.loss=sigmoids"), "unknown rounds.loss 'sigmoids'; did you mean 'sigmoid'?"),
        (("rounds.problems=9",), "rounds.problems is 9, and there are 8"),
        (("training.beta=0.1",), "unknown key 'training.beta': TRL has no such option"),
        (("training.temperature=0",), "training.temperature is 0; it must be a number above 0."),
        (("reward=seed_grpo",), "seed_grpo scales advantages"),
        (("problems_per_update=3",), "problems_per_update (3) does not divide into batches"),
        (("training.packing=true",), "training.packing is for a data set of TRL's, and rounds build theirs"),
        (("training.max_length=64",), "training.max_length is for a data set of TRL's"),
        (
            ("training.dataset_kwargs={add_special_tokens: false}",),
            "training.dataset_kwargs is for a data set of TRL's",
        ),
        (("training.dataloader_drop_last=true",), "training.dataloader_drop_last leaves out examples"),
        (("training.loss_type=dtf",), "unknown training.loss_type 'dtf'; did you mean 'dft'?"),
        ((*DPO, "rounds.samples=1"), "rounds.samples is 1, and a pair takes two completions of a problem"),
        (("rounds.samples=1",), "rounds.samples is 1, so rounds.choose surest would keep every sample; raise it"),
        ((*DPO, "rounds.loss=calibrated", "rounds.options={alhpa: 0.5}"), "unknown key 'rounds.options.alhpa'"),
        (
            (*DPO, "rounds.loss=calibrated", "rounds.options={alpha: 0}"),
            "rounds.options.alpha must be positive, not 0.0",
        ),
        (
            (*DPO, "rounds.loss=calibrated", "training.label_smoothing=0.1"),
            "training.label_smoothing changes a loss of",
        ),
        ((*DPO, "rounds.loss=calibrated", "rounds.choose=given"), "given answers have none; use sigmoid"),
        (("rounds.sample=foresight", "rounds.options={beamz: 3}"), "unknown key 'rounds.options.beamz'"),
        (("rounds.keep=9",), "rounds.keep is 9, more than the"),
        ((*DPO, "rounds.choose=given", "rounds.against=random"), "rounds.against means nothing for choose: given"),
        (("rounds.sample=foresight", "rounds.samples=4"), "rounds.samples is not read by rounds.sample foresight"),
        (
            ("rounds.sample=foresight", "rounds.samples=null", "training.top_p=0.9"),
            "training.top_p is not read by rounds.sample foresight",
        ),
        (("rounds.sample=foresight", "rounds.options={beams: 0}"), "rounds.options.beams must be at least 1, not 0."),
        (
            ("rounds.sample=foresight", "rounds.choose=gold"),
            "does not read samples of foresight; set rounds.sample to whole",
        ),
        (("rounds.sample=deduction",), "does not read samples of deduction; set rounds.choose to verified"),
        (("training.report_to=tensorboard",), "training.report_to is for online training"),
        (("rounds.choose=gold", "task=prompts", "source=SOURCE"), "rounds.choose gold needs gold answers"),
    ],
)
def test_what_cannot_work_is_refused_before_a_folder_is_made(overrides, sentence, tmp_path, model_folder):
    source = tmp_path / "prompts.txt"
    source.write_text("Hello\nWorld\nMore\nText\n")
    with pytest.raises((RecipeError, DataError)) as error:
        train(model_folder, tmp_path, *(each.replace("SOURCE", str(source)) for each in overrides))
    assert sentence in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.sweep
def test_a_round_that_keeps_nothing_keeps_what_was_trained_before(tmp_path, model_folder, monkeypatch):
    from rlif.engines.rounds import choices
    from rlif.engines.rounds.examples import Built

    surest = choices.surest

    def none_in_round_2(round_, groups):
        return surest(round_, groups) if round_.number == 1 else Built([], {"without_example": float(len(groups))})

    monkeypatch.setitem(choices.CHOICES, "surest", choices.Choice(none_in_round_2))
    with pytest.raises(
        DataError, match=r"round 2 found no completion to keep among its 12 samples \(without example 4"
    ):
        train(model_folder, tmp_path)
    run = Run.open(tmp_path / "run")
    assert run.good_checkpoint()[0] == run.checkpoints / "checkpoint-2" and len(run.metrics()) == 2
    assert len(lines(run.path / "rounds/round-002/samples.jsonl")) == 12
    monkeypatch.undo()
    resumed = rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    assert resumed.is_finished and len(resumed.metrics()) == 4


def test_groups_without_answers_give_no_pair(tmp_path, model_folder):
    with pytest.raises(DataError, match="round 1 found no pair of a better and a worse completion among its 12"):
        train(model_folder, tmp_path, *DPO, "rounds.choose=plurality")
    assert not (tmp_path / "run/model").exists() and (tmp_path / "run/rounds/round-001/samples.jsonl").is_file()


def test_several_processes_are_refused(model_folder, tmp_path):
    from rlif.training.prepare import check_settings

    with pytest.raises(RecipeError, match="algorithm sft trains in rounds, which run in one process, not 2"):
        check_settings(small(model_folder, tmp_path), 2)


@pytest.mark.sweep
def test_a_full_disk_between_rounds_loses_nothing(tmp_path, model_folder, monkeypatch, sft):
    """The disk is full when the second round writes what it trains on."""
    from rlif.engines.rounds import examples

    write, calls = examples.write_rows, []

    def full(path, rows):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(path))
        write(path, rows)

    monkeypatch.setattr(examples, "write_rows", full)
    with pytest.raises(MachineError, match="No space left on device"):
        train(model_folder, tmp_path)
    monkeypatch.undo()
    run = Run.open(tmp_path / "run")
    resumed = rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(sft.metrics())


def test_a_damaged_model_of_a_round_is_passed_over(tmp_path, model_folder, sft):
    shutil.copytree(sft.path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    (run.path / "summary.json").unlink()
    path = run.checkpoints / "checkpoint-4" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    resumed = rlif.train(run.recipe(), resume=run, console=Console(quiet=True))
    assert timeless(resumed.metrics()) == timeless(sft.metrics())
    before, after = weights(sft.model), weights(resumed.model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_phases_of_a_hybrid_run(model_folder, tmp_path):
    online = "online={training: {max_steps: 1, beta: 0}, problems_per_update: 2}"
    names = phases_of(small(model_folder, tmp_path, online))
    assert names == ["round-001", "round-002", "online-001"]
    each = phases_of(small(model_folder, tmp_path, online, "online.after=each"))
    assert each == ["round-001", "online-001", "round-002", "online-002"]


@pytest.mark.sweep
def test_a_hybrid_run_goes_on_online_in_the_same_folder(tmp_path, model_folder):
    run = train(
        model_folder,
        tmp_path,
        "online={after: each, problems_per_update: 2, training: {max_steps: 2, beta: 0.1, learning_rate: 1.0e-3,"
        " per_device_train_batch_size: 6}}",
    )
    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row.get("round") for row in rows] == [1, 1, None, None, 2, 2, None, None]
    assert [("kl" in row) for row in rows] == [False, False, True, True] * 2
    tokens = [row["tokens"] for row in rows]
    assert tokens == sorted(tokens) and tokens[1] < tokens[2] < tokens[3] < tokens[4]
    assert sorted(run.evaluations()["cups"]) == [0, 2, 4, 6, 8]
    steps = {path.name for path in run.checkpoints.iterdir()}
    assert {"checkpoint-6", "checkpoint-8"} <= steps and run.summary()["steps"] == 8
    first, second = (
        [row["problem"] for step in steps for row in lines(run.path / f"completions/step-{step:06d}.jsonl")]
        for steps in ((3, 4), (7, 8))
    )
    assert len(first) == len(second) == 12 and first != second  # problems in another order
    assert json.loads((run.checkpoints / "checkpoint-8/phase.json").read_text())["phase"] == 4
