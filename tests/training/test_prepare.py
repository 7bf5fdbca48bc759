"""Tests the checks of a recipe before a run, which `rlif train`, `rlif plan` and `rlif launch` share."""

from __future__ import annotations

import re
import shutil

import pytest
from safetensors.torch import load_file, save_file
from support.commands import main
from support.models import classifier_folder
from support.small_runs import SMALL

import rlif
from rlif.training.prepare import prepare

REFUSED = [
    ("task=clok", "clok"),
    ("prompt=plane", "plane"),
    ("reward=self_certanty", "self_certanty"),
    ("reward=semantic_entropy", "equivalence"),
    ("evaluate.sources={gsm8k: x}", "gsm8k"),
    ("evaluate.columns={gsm8k: {prompt: x}}", "a mapping of columns is given for 'gsm8k'"),
    ("columns={prompt: x}", "has columns of its own, or none"),
    ("training.learning_rat=1", "learning_rat"),
    ("problems_per_update=3", "do not divide"),
]


@pytest.mark.parametrize(("override", "expected"), REFUSED)
def test_train_plan_and_launch_refuse_a_recipe_with_the_same_message(override, expected, monkeypatch, capsys):
    commands = (
        ["train", "demo", override, "--dry-run"],
        ["plan", "demo", override, "--gpus", "1"],
        ["launch", "demo", override, "--processes", "1", "--dry-run"],
    )
    outcomes = [main(monkeypatch, capsys, *command) for command in commands]
    assert [code for code, _, _ in outcomes] == [2, 2, 2]
    sentences = {error for _, _, error in outcomes}
    assert len(sentences) == 1 and expected in sentences.pop()


@pytest.mark.daily(every=3)
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["task=prompts", "source=nowhere.jsonl"], "nowhere.jsonl"),
        (["max_prompt_tokens=3"], "longer than max_prompt_tokens (3)"),
        (["evaluate.tasks=[]", "max_prompt_tokens=4000", "training.max_completion_length=4000"], "positions"),
        (["model=nowhere"], "nowhere"),
        (["limit=1"], "problem"),
        (["lora={rank: 8}"], "lora.rank"),
    ],
)
@pytest.mark.parametrize("how", [[], ["--slurm"]], ids=["here", "slurm"])
def test_dry_runs_of_train_and_launch_prepare_the_run(how, overrides, expected, monkeypatch, capsys):
    """The commands are printed all the same, as they may be for another machine."""
    train = main(monkeypatch, capsys, "train", "demo", *overrides, "--dry-run")
    launch = main(monkeypatch, capsys, "launch", "demo", *overrides, "--processes", "1", "--dry-run", *how)
    assert (train[0], launch[0]) == (2, 2) and train[2] == launch[2] and expected in launch[2]
    assert "demo" in launch[1]


def test_a_dry_run_refuses_a_name_that_a_run_has(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").mkdir()
    code, out, err = main(monkeypatch, capsys, "train", "demo", f"output={tmp_path}", "name=taken", "--dry-run")
    assert code == 2 and "taken exists already; choose another name" in err and "max_steps: 12" in out


def test_a_dry_run_refuses_an_output_where_no_folder_can_be_made(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    code, _, err = main(monkeypatch, capsys, "train", "demo", f"output={tmp_path}/file/runs", "--dry-run")
    assert code == 2 and f"{tmp_path}/file is not a folder; give another output" in err


def test_a_dry_run_of_launch_reads_the_weights(model_folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"torn")
    arguments = [f"model={tmp_path / 'model'}", "evaluate.tasks=[]", "max_prompt_tokens=512", "--dry-run"]
    code, _, err = main(monkeypatch, capsys, "launch", "demo", *arguments, "--processes", "1")
    assert code == 2 and "cannot read model.safetensors" in err


LOOKUP = "training.generation_kwargs={prompt_lookup_num_tokens: 3}"
LATE = {
    "loss": (["training.loss_type=gropo"], "unknown training.loss_type 'gropo'; did you mean 'grpo'"),
    "level": (["training.importance_sampling_level=word"], "there are sequence, token"),
    "schedule": (["training.lr_scheduler_type=nonsense"], "nonsense is not a valid SchedulerType"),
    "optimiser": (["training.optim=nonsense"], "nonsense is not a valid OptimizerNames"),
    "types": (["training.fp16=true", "training.bf16=true"], "At most one of fp16 and bf16"),
    "logging": (["training.logging_steps=0"], "requires non-zero"),
    "batches": (["training.auto_find_batch_size=true"], "auto_find_batch_size is not supported"),
    "clip": (
        [f"training.vllm_importance_sampling_clip_{end}={value}" for end, value in (("min", 5.0), ("max", 1.0))],
        "must be less than",
    ),
    "rate": (["training.learning_rate=-1.0"], "learning_rate is -1.0; it must be 0 or more"),
    "workers": (["training.dataloader_num_workers=-1"], "dataloader_num_workers is -1; it must be 0 or more"),
    "beta": (["training.beta=-1.0"], "beta is -1.0; it must be 0 or more"),
    "optimiser's options": (["training.optim_args=xx"], "not enough values to unpack"),
    "bitsandbytes": (["training.optim=adamw_bnb_8bit"], "You need to install `bitsandbytes`"),
    "moving reference": (["training.sync_ref_model=true", "training.beta=0.0"], "with training.beta 0 there is none"),
    "no tokens": (["training.max_completion_length=0"], "max_completion_length is 0; it must be a whole number from 1"),
    "trackers": (["training.report_to=nonsense"], "nonsense is not supported"),
    "absent tracker": (["training.report_to=mlflow"], "names mlflow, which is not installed"),
    "log level": (["training.log_level=nonsense"], "KeyError: 'nonsense'"),
    "schedule's options": (["training.lr_scheduler_type=cosine_with_min_lr"], "min_lr"),
    "prefetching": (["training.dataloader_num_workers=1", "training.dataloader_prefetch_factor=0"], "1 or more"),
    "processes": (
        ["training.dataloader_num_workers=1", "training.dataloader_multiprocessing_context=foo"],
        "refuses these training options",
    ),
    "checkpointing": (
        ["training.gradient_checkpointing=true", "training.gradient_checkpointing_kwargs={foo: 1}"],
        "Unexpected keyword arguments: foo",
    ),
    "share": (["training.top_p=2.0"], "top_p is 2.0; it must be between 0 and 1"),
    "start": (["training.eval_on_start=true"], "use evaluate.tasks and evaluate.every"),
    "unknown of sampling": (["training.generation_kwargs={top_pp: 1}"], "did you mean"),
    "length": (["training.generation_kwargs={min_new_tokens: abc}"], "cannot sample as training asks"),
    "compilation": (["training.generation_kwargs={disable_compile: true}"], "disable_compile"),
    "number of targets": (["lora={target_modules: 3}"], "must be a list of names, or a pattern"),
    "list of targets": (["lora={target_modules: [[q_proj]]}"], "must be a list of names, or a pattern"),
    "pattern of targets": (["lora={target_modules: '(('}"], "unterminated subpattern"),
    "saved head": (["lora={modules_to_save: [lm_head]}"], "names lm_head, which TRL does not train"),
    "nan": (["reward={self_certainty: 1, FOLDER/nan: 1}"], "finite"),
    "evaluation": (["training.eval_strategy=steps"], "use evaluate.tasks and evaluate.every"),
    "experts": (["training.router_aux_loss_coef=0.1"], "is for a mixture of experts"),
    "temperature": (["training.temperature=0.0"], "temperature"),
    "top_k": (["training.top_k=-5"], "`top_k` has to be a strictly positive integer"),
    "min_p": (["training.min_p=3.0"], "`min_p` has to be a float in the [0, 1] interval"),
    "penalty": (["training.repetition_penalty=-1.0"], "`penalty` has to be a strictly positive float"),
    "lookup": ([LOOKUP], "assisted generate is only supported for batch_size = 1"),
    "lookup and policy": ([LOOKUP, "training.num_iterations=2"], "generation_kwargs, or"),
    "lookup and reference": ([LOOKUP, "training.beta=0.1", "annotator=offline"], "generation_kwargs, or"),
    "cache": (["training.cache_implementation=nonsense"], "Invalid `cache_implementation`"),
    "stop strings": (["training.generation_kwargs={stop_strings: [a]}"], "stop strings"),
    "targets": (["lora={target_modules: [nowhere]}"], "Target modules {'nowhere'} not found"),
    "rank": (["lora={r: eight}"], "lora.r is 'eight'; it must be a whole number from 1"),
    "scale": (["lora={lora_alpha: eight}"], "unsupported operand"),
    "head": (["lora={target_modules: [lm_head]}"], "names lm_head, which TRL does not train"),
    "initialisation": (["lora={init_lora_weights: nonsense}"], "Unknown initialization"),
    "no reward model": (["reward={self_certainty: 1, nobody/none: 1}"], "cannot load the reward model 'nobody/none'"),
    "two outputs": (["reward={self_certainty: 1, FOLDER/two: 1}"], "has 2 outputs; a reward model has one"),
    "no template": (["reward={self_certainty: 1, FOLDER/bare: 1}"], "has no chat template"),
    "torn": (["reward={self_certainty: 1, FOLDER/torn: 1}"], "cannot load the reward model"),
    "no entailment": (["reward=semantic_entropy", "equivalence={entailment: FOLDER/bare}"], "not an entailment model"),
    "nowhere": (["reward=semantic_entropy", "equivalence={entailment: FOLDER/none}"], "cannot load the entailment"),
}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("classifiers")
    for name, options in {"two": {"labels": 2}, "bare": {"template": False}, "torn": {}, "nan": {}}.items():
        classifier_folder(folder / name, **options)
    (folder / "torn/model.safetensors").write_bytes(b"torn")
    weights = load_file(folder / "nan/model.safetensors")
    save_file(
        {name: value * float("nan") for name, value in weights.items()},
        folder / "nan/model.safetensors",
        metadata={"format": "pt"},
    )
    return str(folder)


@pytest.mark.daily(every=3)
@pytest.mark.parametrize("how", ["--dry-run", pytest.param("", marks=pytest.mark.sweep)], ids=["dry", "run"])
@pytest.mark.parametrize("name", LATE)
def test_a_dry_run_refuses_what_the_run_does(name, how, classifiers, model_folder, tmp_path, monkeypatch, capsys):
    """Libraries refuse these when a trainer is built, or in its first step; a dry run builds none."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    overrides, expected = LATE[name]
    words = [*SMALL, f"model={model_folder}", f"output={tmp_path}", *overrides, *filter(None, [how])]
    code, _, err = main(monkeypatch, capsys, "train", "demo", *(word.replace("FOLDER", classifiers) for word in words))
    slow = len(re.findall(r"^rlif: .*: \d+ s$", err, re.MULTILINE))  # work that takes seconds on a busy machine
    assert (code, err.count("rlif: ") - slow) == (2, 1) and expected in err


@pytest.mark.parametrize("path", [[], ["training.num_iterations=2"], ["training.beta=0.1", "annotator=offline"]])
def test_sampling_that_the_models_own_file_asks_for_is_tried(path, model_folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text('{"prompt_lookup_num_tokens": 3, "eos_token_id": 1}')
    words = [*SMALL, f"model={tmp_path / 'model'}", f"output={tmp_path}", *path]
    for how in ([], ["--dry-run"]):
        code, _, err = main(monkeypatch, capsys, "train", "demo", *words, *how)
        assert code == 2 and "assisted generate is only supported" in err and "generation_config.json of" in err


ACCEPTED = (
    "lora={r: 4, init_lora_weights: pissa}",
    "lora={r: 4, target_modules: '^(?!lm_head).*_proj$'}",
    "training.top_p=0.9",
    "training.generation_kwargs={num_return_sequences: 2}",
    "training.generation_kwargs={penalty_alpha: 0.5, top_k: 4}",
)


@pytest.mark.parametrize("how", ["--dry-run", pytest.param("", marks=pytest.mark.sweep)], ids=["dry", "run"])
@pytest.mark.parametrize("override", ACCEPTED)
def test_a_dry_run_accepts_what_the_run_does_and_writes_nothing(
    override, how, model_folder, tmp_path, monkeypatch, capfd
):
    words = [*SMALL, f"model={model_folder}", f"output={tmp_path / 'out'}", override, *filter(None, [how])]
    code, _, err = main(monkeypatch, capfd, "train", "demo", *words)
    assert code == 0 and "[transformers]" not in err
    assert (tmp_path / "out").exists() == (how == "")


def test_options_of_several_processes_are_left_to_them(model_folder, tmp_path, monkeypatch, capsys):
    words = ["launch", "demo", *SMALL, f"model={model_folder}", f"output={tmp_path}", "training.ddp_backend=gloo"]
    batch = "training.per_device_train_batch_size=2"
    assert main(monkeypatch, capsys, *words, batch, "--processes", "4", "--dry-run")[0] == 0


def test_a_dry_run_asks_for_a_model_once_and_says_so_once(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", _asked(asked))
    code, out, err = main(monkeypatch, capsys, "train", "demo", "model=nobody/none", "--dry-run")
    assert code == 2 and asked == ["nobody/none"] and (out + err).count("cannot load the model") == 1


def _asked(names: list[str]):
    def from_pretrained(name: str, **_: object) -> None:
        names.append(name)
        raise OSError("unreachable")

    return from_pretrained


def test_an_unknown_option_of_peft_names_near_ones_alone(monkeypatch, capsys):
    _, _, err = main(monkeypatch, capsys, "train", "demo", "lora={dropuot: 0}", "--dry-run")
    assert "'lora.dropuot': peft has no such option; " in err and "`peft.LoraConfig` lists all" in err
    assert len(err) < 200


def test_the_batches_of_a_dry_run_are_those_of_all_processes(model_folder, tmp_path, monkeypatch, capsys):
    """TRL's own arithmetic sees one process in a dry run."""
    settings = ["training.per_device_train_batch_size=2", f"model={model_folder}", f"output={tmp_path}"]
    words = ["launch", "demo", *SMALL, *settings, "--processes", "4", "--dry-run"]
    assert main(monkeypatch, capsys, *words)[0] == 0


@pytest.mark.parametrize("first", [True, False])
def test_stages_come_in_order_and_hidden_golds_stay_with_the_record(first):
    order = "labelled_first" if first else "unlabelled_first"
    recipe = rlif.load_recipe("demo-labelled-first", ["limit=64", "labels=40", f"order={order}", "evaluate={}"])
    prepared = prepare(recipe)
    known = [problem.gold is not None for problem in prepared.rewarded]
    assert known == ([True] * 40 + [False] * 24 if first else [False] * 24 + [True] * 40)
    assert all(problem.gold is not None for problem in prepared.problems)
    assert [p.text for p in prepared.problems] == [p.text for p in prepared.rewarded]
    assert prepared.options["shuffle_dataset"] is False
    plain = prepare(rlif.load_recipe("demo", ["limit=64", "evaluate={}"]))
    assert plain.problems == plain.rewarded and {p.id for p in plain.problems} == {p.id for p in prepared.problems}
