"""The command line: light to start, one sentence for each mistake, exit code 2."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
import torch
from support.commands import ROOT, main, run
from support.models import byte_tokenizer, tiny_model

from rlif.cli import train
from rlif.cli.main import COMMANDS
from rlif.config.loading import load_recipe
from rlif.engines.trl.setup import build_trainer, check_training


@pytest.mark.parametrize(
    "code",
    [
        "import rlif",
        "import rlif.cli.main; rlif.cli.main.app(['--help'], standalone_mode=False)",
        "import rlif.config.loading; rlif.config.loading.load_recipe('demo')",
    ],
)
def test_importing_is_light(code):
    """No torch, no trl, no plotting; nor for reading a recipe."""
    heavy = {"torch", "trl", "transformers", "datasets", "matplotlib", "scipy", "pandas", "numpy"}
    assert heavy & loaded_by(code) == set()


def test_importing_the_package_or_showing_help_loads_little():
    """`import rlif` is typing and two small modules; help is Typer and the signatures of the commands."""
    ours = {name for name in loaded_by("import rlif") if name.partition(".")[0] == "rlif"}
    assert ours == {"rlif", "rlif.version"} and not {"logging", "json"} & loaded_by("import rlif")
    loaded = loaded_by("import rlif.cli.main; rlif.cli.main.app(['--help'], standalone_mode=False)")
    made = "app = typer.Typer(rich_markup_mode=None); app.command('x')(lambda: None)"
    theirs = loaded_by(f"import typer; {made}; app(['--help'], standalone_mode=False)")  # older Typer loads more
    assert not {"logging", "rich.text", "pydantic", "ruamel.yaml"} & (loaded - theirs)
    folders = {name.split(".")[1] for name in loaded if name.startswith("rlif.")}
    assert folders == {"cli", "errors", "files", "progress", "runs", "version"}


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh Python has loaded after this code."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


@pytest.mark.sweep
def test_public_names_stay_what_they_are():
    """Also where a module has the same name, and is imported when the function is first asked for."""
    code = """
import importlib, pkgutil, rlif
first = {name: getattr(rlif, name) for name in rlif.__all__}
for module in pkgutil.iter_modules(rlif.__path__):
    module.name == "__main__" or importlib.import_module(f"rlif.{module.name}")
print([name for name in first if getattr(rlif, name) is not first[name]], {*rlif.__all__} - {*dir(rlif)})
print(sorted(name for name, found in first.items() if callable(found)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    changed, functions = done.stdout.splitlines()
    assert changed == "[] set()", done.stderr
    assert {"score", "evaluate", "select", "train", "compare", "report"} <= {*ast.literal_eval(functions)}


def test_help_and_recipes(monkeypatch, capsys):
    done = run("--help")
    assert done.returncode == 0
    parts = [part.split(":\n", 1) for part in done.stdout.split("\n\n") if ":\n" in part]
    shown = {heading: re.findall(r"^  (\w[\w-]*) ", names, re.MULTILINE) for heading, names in parts}
    assert shown == {"Options": [], **{heading: list(names) for heading, names in COMMANDS.items()}}
    code, out, _ = main(monkeypatch, capsys, "recipes")
    assert code == 0 and "demo" in out and "intuitor-qwen2.5-3b-math" in out


def test_a_recipe_is_written_out(monkeypatch, capsys, tmp_path):
    code, out, _ = main(monkeypatch, capsys, "recipes", "--show", "intuitor-qwen2.5-3b-math-kl0.01")
    assert code == 0 and "beta: 0.01\n" in out and "reproduces: Table 3 (beta 0.01)" in out and "base:" not in out
    assert "# what was published is measured by: rlif eval runs/NAME --tasks gsm8k.paper,math500.paper," in out
    (tmp_path / "mine.yaml").write_text(out)
    assert load_recipe(tmp_path / "mine.yaml").training["beta"] == 0.01
    assert "did you mean 'demo'" in main(monkeypatch, capsys, "recipes", "--show", "dmo")[2]


def test_run_folders_are_named_after_the_whole_name(monkeypatch):
    """A name with a dot in it is not a file with a suffix."""
    named = []
    monkeypatch.setattr(train, "_train", lambda recipe, name, run: named.append(name))
    train.train("intuitor-qwen2.5-3b-math-kl0.01")
    train.train(str(ROOT / "rlif/recipes/demo.yaml"))
    assert named == ["intuitor-qwen2.5-3b-math-kl0.01", "demo"]


def test_dry_run_prints_the_recipe_the_steps_and_the_cost(monkeypatch, capsys):
    code, out, _ = main(monkeypatch, capsys, "train", "demo", "seed=5", "--dry-run")
    assert code == 0
    assert "seed: 5" in out and "gradient_accumulation_steps: 2" in out and "normalisation: group_std_floor" in out
    assert "2,048 problems, " in out and "tokens to generate" in out
    assert "optimiser state" in out and "activations or cache" in out and "together" in out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["annotator=offline", "training.beta=0"], "annotator offline needs the frozen start"),
        (
            ["annotator=offline", "lora={bias: all}"],
            "with its adapters off, which lora.bias=all makes another than the",
        ),
        (["annotator=offline", "lora={init_lora_weights: pissa}"], "which lora.init_lora_weights=pissa makes another"),
        (["reward={self_certainty: {stages: [[0, 1], [5, 0]]}}"], "from step 5 on every reward weighs 0"),
    ],
)
def test_dry_run_refuses_what_a_run_would(overrides, message, monkeypatch, capsys):
    code, _, err = main(monkeypatch, capsys, "train", "demo", *overrides, "--dry-run")
    assert code == 2 and message in err


def test_dry_run_and_plan_count_the_same_memory(monkeypatch, capsys):
    """Where vLLM takes a share of a GPU, whose size a dry run cannot know, it says the least that vLLM needs."""
    sizes = []
    for words in (["train", "demo", "--dry-run"], ["plan", "demo", "--gpus", "1"]):
        out = main(monkeypatch, capsys, *words)[1].partition("time of an update")[0]
        sizes.append({name: float(size) for name, size in re.findall(r"^  (\w[\w ,']*?) +([\d.]+)$", out, re.M)})
    assert len(sizes[0]) > 5 and sizes[0] == pytest.approx(sizes[1], abs=0.006)
    served = main(monkeypatch, capsys, "train", "demo", "training.use_vllm=true", "--dry-run")[1]
    assert "vLLM, at least" in served


def test_dry_run_prints_what_it_knows_and_ends_with_what_stops_the_run(monkeypatch, capsys):
    monkeypatch.delenv("RLIF_DATA", raising=False)
    code, out, err = main(monkeypatch, capsys, "train", "intuitor-qwen2.5-3b-math", "--dry-run")
    assert code == 2 and "cannot load" in err
    assert "model: Qwen/Qwen2.5-3B" in out and (out + err).count("cannot load the model") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], "give a recipe"),
        (["train", "dmo"], "did you mean 'demo' or 'demo-real' or 'demo-long'? `rlif recipes` lists all "),
        (
            ["train", "nothing-like-it"],
            "no recipe file or shipped recipe is called 'nothing-like-it'; `rlif recipes` lists",
        ),
        (["report", "nowhere"], "nowhere is not a run folder: there is no such folder."),
        (["check-graders", "nowhere"], "cannot read nowhere/expected.json: No such file or directory."),
        (["train", "demo", "modle=x"], "did you mean 'model'"),
        (["train", "demo", "reward=confidence"], "unknown reward 'confidence'"),
        (["train", "demo", "reward={likelyhood: 1}"], "did you mean 'likelihood'"),
        (["train", "demo", "reward={self_certainty: 0}"], "no reward has a weight"),
        (["train", "demo", "reward=semantic_entropy"], "equivalence names the model"),
        (["train", "demo", "reward=accuracy", "annotator=lagged"], "accuracy measures none"),
        (["train", "demo", "task=clocks"], "did you mean 'clock'"),
        (["train", "demo", "prompt=plane"], "did you mean 'plain'"),
        (["train", "demo", "training.lr=1"], "TRL has no such option"),
        (["train", "demo", "training.num_generations=1"], "always be zero"),
        (["train", "demo", "problems_per_update=3"], "do not divide"),
        (["train", "demo", "training.use_vllm=true", "training.vllm_max_model_length=100"], "together are 120; raise"),
        (["train", "demo", "limit=5"], "5 problems are too few for one rollout of 16"),
        (["train", "demo", "max_prompt_tokens=3"], "all 2048 prompts are longer than max_prompt_tokens (3)"),
        (["train", "demo", "model=/nowhere/model"], "no such model folder"),
        (["eval", "", "--tasks", "clock"], "the model has no name; give a folder or a hub name"),
        (
            ["plan", "demo", "training.max_steps=-1", "--gpus", "1", "--problems", "8"],
            "8 problems are too few for one rollout of 16",
        ),
        (["train", "demo", "model=nobody/nothing"], "cannot load the model 'nobody/nothing'"),
        (["train", "demo", "task=prompts"], "source=PATH"),
        (["train", "demo", "task=prompts", "source=/nowhere.txt"], "no such data file"),
        (["train", "demo", "annotator=offline", "training.beta=0"], "training.beta above 0"),
        (["train", "demo", "training.per_device_train_batch_size=0"], "it must be a whole number from 1"),
        (["train", "demo", "training.steps_per_generation=0"], "it must be a whole number from 1"),
        (["train", "demo", "training.generation_batch_size=64"], "use problems_per_update instead"),
        (["train", "demo", "training.num_iterations=4", "training.save_steps=3"], "must be a multiple of the 4"),
        (["train", "--resume", "/nowhere"], "is not a run folder"),
        (["train", "--resume", "/nowhere", "--dry-run"], "give it without --resume"),
        (["train", "demo", "--resume", "runs/demo"], "give none beside it"),
        (["eval", "m", "--tasks=math", "--columns=prompt=a,prompt=b"], "--columns names 'prompt' twice"),
        (["eval", "m", "--tasks=math", "--source=math=a", "--source=math=b"], "--source names 'math' twice"),
        (["eval", "m", "--tasks=math", "--source=math"], "cannot read 'math'; a source looks like gsm8k=PATH"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(args, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = main(monkeypatch, capsys, *args)
    assert code == 2
    assert err.startswith("rlif: ") and message in err and err.count("\n") == 1 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_model_folders_are_checked(monkeypatch, capsys, tmp_path, model_folder):
    monkeypatch.chdir(tmp_path)
    empty, pickled = tmp_path / "empty", tmp_path / "pickled"
    for folder in (empty, pickled):
        folder.mkdir()
    assert "it has no config.json" in main(monkeypatch, capsys, "train", "demo", f"model={empty}")[2]
    (pickled / "config.json").write_text((model_folder / "config.json").read_text(encoding="utf-8"))
    assert "no weights" in main(monkeypatch, capsys, "train", "demo", f"model={pickled}")[2]
    torch.save(tiny_model().state_dict(), pickled / "pytorch_model.bin")
    assert "has no tokenizer" in main(monkeypatch, capsys, "train", "demo", f"model={pickled}", "allow_pickle=true")[2]
    byte_tokenizer().save_pretrained(pickled)
    code, _, err = main(monkeypatch, capsys, "train", "demo", f"model={pickled}")
    assert code == 2 and "are pickled (pytorch_model.bin)" in err and "allow_pickle=true" in err
    assert not (tmp_path / "runs").exists()
    recipe = load_recipe("demo", [f"model={pickled}", "allow_pickle=true", "training.log_level=error"])
    trainer = build_trainer(recipe, check_training(recipe, 1), ["Go."] * 64, byte_tokenizer(), str(tmp_path / "out"))
    assert torch.equal(trainer.model.lm_head.weight, tiny_model().lm_head.weight)
