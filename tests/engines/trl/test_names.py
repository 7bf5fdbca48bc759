"""Tests what the trainers of rlif.trl refuse, and what a plain one does."""

from __future__ import annotations

import math
from typing import Any

import datasets
import pytest
import trl
from support.trainers import PROMPTS, Lengths, make, trained, upper

import rlif
from rlif.errors import DataError, RecipeError
from rlif.graders import GRADERS
from rlif.signals import GROUP_SIGNALS
from rlif.tasks import Task
from rlif.tasks.reasoning_gym import ReasoningGym
from rlif.tasks.verifiers import Verifiers
from rlif.trl import Annotator, InternalFeedback, labelled, unlabelled

CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def length(completions, **_):
    return [float(len(text)) for text in completions]


GOLDLESS = r"accuracy needs gold answers, in a column gold, answer or solution; the data set has prompt\."
WRONG = {
    "misspelt": (["self_certanty"], {}, r"unknown reward 'self_certanty'; did you mean 'self_certainty'\?"),
    "one word": (["certainty_of_mine"], {}, r"unknown reward 'certainty_of_mine'"),
    "two scalings": (
        "self_certainty",
        {"normalisation": "group_std", "scale_rewards": "batch"},
        "scale_rewards='batch'",
    ),
    "aggregation": (
        ["self_certainty", upper],
        {"normalisation": "group_std", "multi_objective_aggregation": "normalize_then_sum"},
        "multi_objective_aggregation='normalize_then_sum' and normalisation='group_std' scale the rewards",
    ),
    "no gold": ("accuracy", {}, GOLDLESS),
    "annotator": ("self_certainty", {"annotator": "ofline"}, "unknown annotator 'ofline'; did you mean 'offline'"),
    "annotator of none": (
        upper,
        {"annotator": "offline"},
        "chooses the model that measures confidence; no reward does",
    ),
    "factor": ("seed_grpo", {}, "pass normalisation='group_std'"),
    "programs": ("plurality_vote", {"task": "humaneval"}, "are programs, which plurality_vote cannot read here"),
    "texts": ("semantic_entropy", {}, "pass equivalence={'entailment': NAME}, or {'embedding': NAME}"),
    "equivalence": ("semantic_entropy", {"equivalence": {"threshold": 0.5}}, "equivalence needs one model"),
    "unknown key of it": ("semantic_entropy", {"equivalence": {"entailmen": "x"}}, "equivalence is {'entailmen': 'x'}"),
    "equivalence of none": (upper, {"equivalence": {"entailment": "x"}}, "which reward_funcs does not have"),
    "old name": ("group_confidence", {}, "is now called mean_token_confidence"),
    "guard": ("self_certainty", {"guard": {"kll": 1}}, r"guard\.kll"),
    "guard by a word": ("self_certainty", {"guard": "stop"}, "guard is 'stop'; give True, or a mapping"),
    "twice": (["self_certainty", upper, rlif.SIGNALS["self_certainty"]], {}, "reward_funcs has self_certainty twice"),
    "shared name": (["length", length], {}, "has both length and a function of that name; rename the function"),
    "capture without vllm": ("self_certainty", {"vllm_capture": True}, "set use_vllm=True, or leave it out"),
    "number": (["self_certainty", 3], {}, "reward_funcs has 3; give a name, a function"),
    "mapping": ({"self_certainty": 1.0}, {}, r"reward_funcs has \{'self_certainty': 1.0\}; give"),
    "no folder": ("./nothing/here", {}, "the reward ./nothing/here is a path, and there is no such folder"),
    "normalisation": ("self_certainty", {"normalisation": "groupstd"}, "'groupstd'; did you mean 'group_std'"),
    "weights": (["self_certainty", upper], {"reward_weights": [1.0, math.nan]}, "weights are finite numbers"),
    "annotator of no word": ("self_certainty", {"annotator": None}, "unknown annotator None"),
    "class of a task": ("plurality_vote", {"task": Task}, "the task is the class Task; give a name of `rlif tasks`"),
    "no prompts": ("self_certainty", {"rows": {"question": PROMPTS}}, "needs a column prompt; it has question"),
    "empty golds": ("accuracy", {"rows": {"prompt": PROMPTS, "gold": [math.nan] * len(PROMPTS)}}, "gold is empty"),
    "golds of no use": (
        "accuracy",
        {"rows": {"prompt": PROMPTS, "gold": [{"a": "4"}] * len(PROMPTS)}},
        "a gold answer",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_gets_one_sentence(case, tmp_path):
    functions, given, message = WRONG[case]
    ours = {
        name: given[name]
        for name in ("normalisation", "annotator", "guard", "task", "vllm_capture", "equivalence")
        if name in given
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if name not in ours}
    with pytest.raises(rlif.RlifError, match=message) as caught:
        make(functions, tmp_path=tmp_path, ours=ours, **options)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


@pytest.mark.parametrize(
    ("kind", "reward", "message"),
    [
        (labelled, upper, "labelled is for signals and graders of rlif, and upper is not among them; a function"),
        (unlabelled, "owner/model", "unlabelled is for signals and graders of rlif, and 'owner/model' is not among"),
        (labelled, labelled("accuracy"), "labelled is for signals and graders of rlif"),
        (labelled, "acuracy", "unknown reward 'acuracy'; did you mean 'accuracy'"),
        (unlabelled, "accuracy", "the reward accuracy reads gold answers, and unlabelled rows have none; take it out"),
        (unlabelled, "seed_grpo", "the reward seed_grpo reads gold answers"),
    ],
)
def test_rewards_that_cannot_be_for_some_rows_are_refused(kind, reward, message):
    with pytest.raises(RecipeError, match=message):
        kind(reward)


@pytest.mark.parametrize(
    ("rewards", "gold", "message"),
    [
        (
            labelled("self_certainty"),
            None,
            "self_certainty is for labelled rows, which are told by gold answers, in a column gold, answer or solution;"
            r" the data set has prompt\.",
        ),
        ([labelled("accuracy"), "self_certainty"], None, GOLDLESS),
        (unlabelled("self_certainty"), ["4"], "is for unlabelled problems, but each of the 16 has a gold answer"),
        (labelled("self_certainty"), [None], "is for labelled problems, but each of the 16 has none; leave that out"),
        (labelled("accuracy"), [None], "the reward accuracy needs gold answers, and the column gold is empty"),
        ([labelled("self_certainty"), unlabelled("self_certainty")], ["4", None], "has self_certainty twice"),
    ],
)
def test_rewards_for_some_rows_need_such_rows(rewards, gold, message, tmp_path):
    rows = {"prompt": PROMPTS * 4} | ({} if gold is None else {"gold": (gold * 16)[:16]})
    with pytest.raises(rlif.RlifError, match=message):
        make(rewards, tmp_path=tmp_path, rows=rows)


def test_rewards_for_some_rows_keep_the_column_of_gold(tmp_path):
    rows = {"prompt": PROMPTS, "gold": ["4", None] * 2}
    with pytest.raises(RecipeError, match="self_certainty reads the column gold; set remove_unused_columns=False"):
        make(unlabelled("self_certainty"), tmp_path=tmp_path, rows=rows, remove_unused_columns=True)


class OfData(Lengths):
    """Grades by a row of its own data."""

    reads_data = True


def test_tasks_that_grade_by_their_own_data_are_refused_for_graders(tmp_path, monkeypatch):
    rows = {"prompt": PROMPTS * 4, "gold": ["1", None] * 8}
    (tmp_path / "own.py").write_text("from rlif.graders import Batch\n\n\ndef golden(batch: Batch): ...\n")
    monkeypatch.chdir(tmp_path)
    for reward in ("accuracy", "seed_grpo", labelled("accuracy"), ["self_certainty", "own.py:golden"]):
        given = {"task": OfData(), "normalisation": "group_std"}
        with pytest.raises(
            RecipeError, match=r"task lengths grades by data that it loads itself, which .*`rlif train`"
        ):
            make(reward, tmp_path=tmp_path, rows=rows, ours=given)
    with pytest.raises(RecipeError, match=r"task mmlu_pro\.guess grades by data .* which accuracy cannot read here"):
        make("accuracy", tmp_path=tmp_path, rows=rows, ours={"task": "mmlu_pro.guess"})
    assert ReasoningGym.reads_data and Verifiers.reads_data
    assert make("accuracy", tmp_path=tmp_path, rows=rows, ours={"task": "mmlu_pro"}).reward.task.name == "mmlu_pro"
    both = ["plurality_vote", labelled("self_certainty")]
    trained(both, tmp_path=tmp_path, rows=rows, ours={"task": OfData()}, max_steps=1)


def test_the_model_of_equivalence_is_loaded_after_all_checks(tmp_path, monkeypatch):
    def loaded(*_):
        raise AssertionError("it was loaded")

    monkeypatch.setattr("rlif.engines.trl.names.load_equivalence", loaded)
    ours = {"equivalence": {"entailment": "x"}}
    with pytest.raises(DataError, match="needs a column prompt; it has question"):
        make("semantic_entropy", tmp_path=tmp_path, rows={"question": PROMPTS}, ours=ours)
    with pytest.raises(RecipeError, match="weights are finite numbers"):
        make(["semantic_entropy", upper], tmp_path=tmp_path, ours=ours, reward_weights=[1.0, math.nan])
    with pytest.raises(AssertionError, match="it was loaded"):
        make("semantic_entropy", tmp_path=tmp_path, ours=ours)


def test_images_and_empty_gold_are_refused(tmp_path):
    rows = {"prompt": CHATS, "image": ["a.png"] * 4}
    with pytest.raises(RecipeError, match="measured on text alone, and the data set has images"):
        make("self_certainty", tmp_path=tmp_path, rows=rows)
    rows = {"prompt": CHATS, "gold": [None] * 4}
    with pytest.raises(DataError, match="the column gold is empty in every row"):
        make("accuracy", tmp_path=tmp_path, rows=rows)


def test_a_plain_trainer_refuses_what_is_ours(tmp_path):
    ours = make("self_certainty", tmp_path=tmp_path)
    made = make(ours.reward_funcs[:], trl.GRPOTrainer, tmp_path)
    with pytest.raises(RecipeError, match=r"belongs to a trainer of rlif\.trl"):
        made.train()
    with pytest.raises(RecipeError, match=r"rlif\.SIGNALS\['self_certainty'\] reads statistics, not completions"):
        make(rlif.SIGNALS["self_certainty"], trl.GRPOTrainer, tmp_path).train()
    assert make(rlif.SIGNALS["self_certainty"], tmp_path=tmp_path).reward_func_names == ["self_certainty"]
    with pytest.raises(RecipeError, match="was made for another trainer"):
        make(ours.reward_funcs[:], tmp_path=tmp_path)
    for table in (GROUP_SIGNALS, GRADERS):
        name, function = next(iter(table.items()))
        with pytest.raises(RecipeError, match=f"{name} reads a (Group|Batch), not completions; import the trainer"):
            make(function, trl.GRPOTrainer, tmp_path).train()
        assert make(function, tmp_path=tmp_path, rows={"prompt": PROMPTS, "gold": PROMPTS}).reward_func_names == [name]


@pytest.mark.parametrize("prompt", [5, "", None])
def test_prompts_of_another_kind_are_refused(prompt, tmp_path):
    with pytest.raises(DataError, match=rf"a prompt of the data set is {prompt!r}; expected text"):
        make("self_certainty", tmp_path=tmp_path, rows={"prompt": [prompt] * 16}).train()


def test_options_of_an_annotator_are_checked():
    for options, message in (
        ({"kind": "emaa"}, "unknown annotator 'emaa'; did you mean 'ema'"),
        ({"kind": "ema", "decay": 1.5}, "decay must lie between 0 and 1, got 1.5"),
        ({"kind": "lagged", "every": 0}, "a number of steps from 1, got 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            Annotator(**options)


def test_the_mixin_comes_before_the_trainer():
    with pytest.raises(
        RecipeError, match="class Late has GRPOTrainer before InternalFeedback; put InternalFeedback first"
    ):
        type("Late", (trl.GRPOTrainer, InternalFeedback), {})
    with pytest.raises(RecipeError, match="class Alone has no trainer of TRL among its bases"):
        type("Alone", (InternalFeedback,), {})(reward_funcs="self_certainty")


def test_a_stream_without_gold_is_refused_at_the_first_rollout(tmp_path):
    rows = datasets.IterableDataset.from_generator(lambda: ({"prompt": prompt} for prompt in PROMPTS * 4))
    with pytest.raises(rlif.RlifError, match=GOLDLESS):
        make(["self_certainty", "accuracy"], tmp_path=tmp_path, rows=rows).train()


def test_a_checkpoint_without_ours_is_resumed_or_refused(tmp_path):
    trained(["self_certainty"], tmp_path=tmp_path, max_steps=1, save_steps=1, save_strategy="steps")
    more = {"normalisation": "group_std", "guard": True}
    resumed = make(["self_certainty"], tmp_path=tmp_path, ours=more, save_steps=1, save_strategy="steps")
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert (tmp_path / "checkpoint-2/trainer_state.json").is_file()
    other = make(["self_certainty", upper], tmp_path=tmp_path, ours=more, max_steps=3)
    with pytest.raises(
        RecipeError, match="written without the reward upper; resume it with the rewards self_certainty"
    ):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
