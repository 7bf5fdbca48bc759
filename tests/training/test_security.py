"""Tests that a run never runs foreign code or a model's text, writes elsewhere, or stores secrets."""

from __future__ import annotations

import ast
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from support.killing import rlif_process, train_arguments
from support.models import byte_tokenizer, tiny_model
from support.sabotage import die_at

import rlif
from rlif.files.yaml import read_yaml as yaml_of
from rlif.files.yaml import write_yaml
from rlif.runs.checkpoints import seal
from rlif.runs.folder import Run
from rlif.tasks.prompts import Prompt
from rlif.tasks.rendering import render

ROOT = Path(__file__).parents[2]
SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "SOME_PASSWORD")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_does_not_run(where, folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    settings = json.loads((folder / where).read_text())
    names = {"config.json": "AutoConfig AutoModelForCausalLM", "tokenizer_config.json": "AutoTokenizer"}[where]
    settings["auto_map"] = dict.fromkeys(names.split(), "evil.Evil")
    if where == "config.json":
        settings["model_type"] = "evil"
    else:
        settings["tokenizer_class"], settings["auto_map"] = "Evil", {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / where).write_text(json.dumps(settings))
    code, said = rlif_process(train_arguments(folder, tmp_path, "training.max_steps=1"), tmp_path / "log")
    assert not canary.exists() and code in (0, 2) and "Traceback" not in said, said
    assert code == 2 or where == "tokenizer_config.json"


def test_code_that_comes_with_a_run_folder_does_not_run(tmp_path, monkeypatch):
    """The recipe of a foreign run folder names a reward, and its environment names the folder to import from."""
    run = Run.create(rlif.load_recipe("demo", [f"output={tmp_path}"]), "run")
    (run.path / "evil_kept.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\ndef f(**_): return []\n")
    environment = json.loads((run.path / "environment.json").read_text())
    (run.path / "environment.json").write_text(json.dumps(environment | {"folder": str(run.path)}))
    recipe = (run.path / "recipe.yaml").read_text()
    (run.path / "recipe.yaml").write_text(recipe.replace("reward: self_certainty", "reward: evil_kept:f"))
    with pytest.raises(rlif.RlifError, match="cannot import the reward evil_kept:f: No module named 'evil_kept'"):
        rlif.train(run.recipe(), resume=run)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("reward", "{run}/evil_kept.py:f"),
        ("reward", "runs.run.evil_kept:f"),
        ("task", "{run}/evil_kept.py:f"),
        ("task", "Evil"),
        ("prompt", "runs/run/evil_kept.py:f"),
        ("evaluate", {"tasks": ["runs.run.evil_kept:f"]}),
        ("evaluate", {"tasks": ["Evil"]}),
        ("online", {"reward": "runs/run/evil_kept.py:f"}),
    ],
)
def test_code_inside_a_run_folder_does_not_run_wherever_its_recipe_names_it(key, name, tmp_path, monkeypatch):
    """Also where the current folder makes it importable, or is the run folder itself."""
    base = "hybrid" if key == "online" else "demo"
    run = Run.create(rlif.load_recipe(base, [f"output={tmp_path / 'runs'}"]), "run")
    (run.path / "tasks").mkdir()
    for path in ("evil_kept.py", "tasks/evil.py"):
        (run.path / path).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Evil: pass\ndef f(): pass\n")
    monkeypatch.chdir(run.path if "Evil" in str(name) else tmp_path)
    recipe = yaml_of(run.path / "recipe.yaml")
    write_yaml(recipe | {key: name.format(run=run.path) if isinstance(name, str) else name}, run.path / "recipe.yaml")
    with pytest.raises(rlif.RlifError, match=r"names code that lies in itself \(.*\), which is not run"):
        rlif.train(run.recipe(), resume=run)
    assert not (tmp_path / "canary").exists()


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickled_weights_are_refused(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(str(canary))))
    code, said = rlif_process(train_arguments(folder, tmp_path), tmp_path / "log")
    assert code == 2 and "are pickled" in said and not canary.exists()


@pytest.mark.sweep
def test_code_pickled_in_a_foreign_checkpoint_does_not_run(folder, tmp_path):
    """The checkpoint is sealed correctly but has a payload instead of the optimiser's state."""
    canary = tmp_path / "canary"
    rlif_process(train_arguments(folder, tmp_path), tmp_path / "log", (die_at, "accelerate:Accelerator.backward", 3))
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-1"
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth", "scheduler.pt"):
        torch.save({"state": Payload(str(canary))}, checkpoint / name)
    seal(checkpoint)
    code, said = rlif_process(["train", "--resume", tmp_path / "run"], tmp_path / "again")
    assert not canary.exists() and code == 2 and "holds pickled code, which is not run" in said, said


INSIDE = ("sandbox/calls.py", "tasks/code/evalplus_oracle.py")  # they run a model's programs, inside the sandbox only
INTERPRETERS = ("eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load")
HOSTILE = "{0.__class__} {{ 7 * 7 }} {% raw %} $(touch x) `id` %s [bold]\\[/] {problem}"


def test_text_of_a_problem_is_never_read_as_a_template():
    tokenizer, prompt = byte_tokenizer(), Prompt(user="Solve {problem} now")
    shown = tokenizer.decode(render(tokenizer, prompt, HOSTILE, True))
    assert f"Solve {HOSTILE} now" in shown and "49" not in shown


def test_the_package_calls_no_shell_eval_pickle_or_unescaped_template():
    """Only the sandbox has an interpreter, so a model's text cannot reach one elsewhere."""
    found = []
    for path in sorted((ROOT / "rlif").rglob("*.py")):
        if path.relative_to(ROOT / "rlif").as_posix() in INSIDE:
            continue
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            called, given = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
            escaped = given.get("autoescape") == "True"
            trusting = not given.get("trust_remote_code", "False").startswith(("False", "engine"))
            if called in INTERPRETERS or "shell" in given or trusting or ("jinja2." in called and not escaped):
                found.append(f"{path.name}: {ast.unparse(call)[:80]}")
    assert found == []


@pytest.mark.sweep
def test_no_secret_of_the_environment_is_written_or_printed(folder, tmp_path):
    """The environment holds fake tokens; no file of the run contains one."""
    fake = {name: f"hf_fake{number}{'x' * 20}secret" for number, name in enumerate(SECRETS)}
    arguments = train_arguments(folder, tmp_path, "training.max_steps=1", "evaluate={tasks: [cups], limit: 1}")
    code, said = rlif_process(arguments, tmp_path / "log", **fake)
    assert code == 0, said
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"training_args.bin", "environment.json", "README.md"} <= {path.name for path in files}
    for path in files:
        data = path.read_bytes()
        assert not any(secret.encode() in data or secret[5:15].encode() in data for secret in fake.values()), path
    assert not any(secret in said for secret in fake.values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=../elsewhere", "is not a folder name"),
        ("name=/tmp/elsewhere", "is not a folder name"),
        ("training.output_dir=/tmp/elsewhere", "training.output_dir is set by rlif"),
        ("training.hub_token=hf_abc", "training.hub_token is set by rlif; set HF_TOKEN in the environment"),
        ("training.push_to_hub=true", "training.push_to_hub is set by rlif"),
        ("training.trackio_bucket_id=a/b", "training.trackio_bucket_id is set by rlif"),
        ("training.trackio_static_space_id=a/b", "training.trackio_static_space_id is set by rlif"),
        ("training.log_completions_hub_repo=a/b", "training.log_completions_hub_repo is set by rlif"),
        ("training.trackio_space_id=a/b", "training.trackio_space_id is set by rlif"),
        ("training.resume_from_checkpoint=/tmp/x", "training.resume_from_checkpoint is set by rlif; use --resume"),
    ],
)
def test_a_recipe_cannot_write_outside_the_run_folder(override, message):
    with pytest.raises(rlif.RlifError, match=re.escape(message)):
        rlif.load_recipe("demo", [override])


def test_everything_is_written_into_the_run_folder(folder, tmp_path, monkeypatch):
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = {path for path in tmp_path.rglob("*") if "run" not in path.parts}
    code, said = rlif_process(train_arguments(folder, tmp_path, "training.max_steps=1"), tmp_path / "log")
    assert code == 0, said
    written = {path for path in tmp_path.rglob("*") if path.relative_to(tmp_path).parts[0] != "run"}
    assert written - before == {tmp_path / "log"}
