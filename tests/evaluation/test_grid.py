"""Tests models x tasks: checkpoints of runs, recorded completions, paired comparisons, the command line."""

from __future__ import annotations

import json
import shutil

import pytest
from support.models import tiny_model
from typer.testing import CliRunner

import rlif
from rlif.cli.main import app
from rlif.config.loading import check_recipe
from rlif.evaluation.grid import Options, candidates, check_distinct, compare, evaluate_candidate, grade_outputs
from rlif.runs.checkpoints import seal
from rlif.runs.folder import Run
from rlif.tasks import check_sources, find_task, of_task

CLOCK = rlif.TASKS["clock"]


@pytest.fixture
def run(tmp_path, model_folder):
    """Makes a run of five steps with a checkpoint at 3, and one at 4 that was not written to its end."""
    recipe = check_recipe({"model": str(model_folder), "task": "clock", "output": str(tmp_path / "runs")})
    run = Run.create(recipe, "curve")
    for step in (3, 4):
        shutil.copytree(model_folder, run.checkpoints / f"checkpoint-{step}")
    tiny_model(seed=1).save_pretrained(run.checkpoints / "checkpoint-3")
    seal(run.checkpoints / "checkpoint-3")
    shutil.copytree(model_folder, run.model)
    tiny_model(seed=2).save_pretrained(run.model)
    run.write_summary({"steps": 5})
    return run


def options(**changes) -> Options:
    return Options(limit=4, decoding={"max_tokens": 6}, batch_size=4, **changes)


def test_a_run_folder_stands_for_all_its_checkpoints(run, tmp_path):
    found = candidates(str(run.path), tmp_path)
    assert [(c.label, c.step) for c in found] == [("curve step 0", 0), ("curve step 3", 3), ("curve step 5", 5)]
    work = [(CLOCK, options().problems(CLOCK))]
    for candidate in found:
        evaluate_candidate(candidate, work, options())
    curve = run.evaluations()["clock"]
    assert sorted(curve) == [0, 3, 5] and all(curve[step]["step"] == step for step in curve)
    assert len({scores["self_certainty"] for scores in curve.values()}) == 3
    assert len(run.records(3, "clock")) == 4 and set(run.records(3, "clock")[0]) >= {"right", "completion"}
    assert compare(found[0], found[2], CLOCK).problems == 4


def test_a_finished_evaluation_is_not_repeated(run, tmp_path):
    (first, *_) = candidates(str(run.path), tmp_path)
    work = [(CLOCK, options().problems(CLOCK))]
    scores = evaluate_candidate(first, work, options())

    def no_model(candidate, tokenizer):
        raise AssertionError("a model was loaded")

    assert evaluate_candidate(first, work, options(), sampler=no_model) == scores
    with pytest.raises(rlif.RlifError, match=r"has other settings \(decoding\); write to another folder"):
        evaluate_candidate(first, work, Options(limit=4, decoding={"max_tokens": 7}), sampler=no_model)
    again = evaluate_candidate(first, work, Options(limit=4, decoding={"max_tokens": 7}, batch_size=4, overwrite=True))
    assert again["clock"].settings["decoding"]["max_tokens"] == 7


def test_scores_of_a_folder_that_was_trained_since_are_not_those_of_its_model(model_folder, tmp_path):
    """The new weights have the same names and sizes."""
    folder = shutil.copytree(model_folder, tmp_path / "mine")
    work = [(CLOCK, options().problems(CLOCK))]
    (candidate,) = candidates(str(folder), tmp_path / "evals")
    scores = evaluate_candidate(candidate, work, options())
    assert evaluate_candidate(candidate, work, options()) == scores
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x40")
    with pytest.raises(rlif.RlifError, match=r"has other settings \(content\); write to another folder"):
        evaluate_candidate(candidate, work, options())


def test_an_incomplete_checkpoint_is_refused(run, tmp_path):
    with pytest.raises(rlif.RlifError, match="was not written to its end"):
        candidates(str(run.checkpoints / "checkpoint-4"), tmp_path)
    (only,) = candidates(str(run.checkpoints / "checkpoint-3"), tmp_path)
    assert only.label == f"{run.path.name}-checkpoint-3" and only.step is None


def test_corrupted_weights_raise_one_sentence(model_folder, tmp_path):
    broken = shutil.copytree(model_folder, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (candidate,) = candidates(str(broken), tmp_path)
    with pytest.raises(rlif.RlifError, match="cannot load the model"):
        evaluate_candidate(candidate, [(CLOCK, options().problems(CLOCK))], options())


def test_an_adapter_is_evaluated_on_its_base(model_folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path / "adapter")
    work = [(CLOCK, options().problems(CLOCK))]
    scores = [
        evaluate_candidate(candidates(str(path), tmp_path / "out")[0], work, options())["clock"].self_certainty
        for path in (model_folder, tmp_path / "adapter")
    ]
    assert scores[0] != scores[1]


def rows(problems, changed=()):
    return [
        {"id": p.id, "completion": f"The answer is \\boxed{{{'?' if p.id in changed else p.gold}}}."} for p in problems
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_recorded_completions(tmp_path):
    problems = CLOCK.load("test", limit=8)
    source = write(tmp_path / "outputs.jsonl", rows(problems, changed={problems[0].id, problems[5].id}))
    scores = grade_outputs(CLOCK, problems, source)
    assert scores.accuracy.mean == 6 / 8 and [r["right"] for r in scores.records].count(False) == 2
    lists = [{"id": row["id"], "output": [row["completion"], "none"]} for row in rows(problems)]
    scores = grade_outputs(CLOCK, problems, write(tmp_path / "lists.jsonl", lists))
    assert scores.n == 2 and scores.accuracy.mean == 0.5 and scores.chosen["maj@2"].mean == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "lacks 1 of the 3 ids"),
        (lambda rows: [*rows, {"id": "else", "completion": ""}], "has the id 'else', which clock has not"),
        (lambda rows: [{"completion": "x"}], "row 1 of .* has no 'id'"),
        (lambda rows: [{"id": rows[0]["id"], "text": "x"}], "row 1 of .* has no text in 'completion'"),
        (lambda rows: [{"id": rows[0]["id"], "completion": [1]}], "row 1 of .* has no text"),
    ],
)
def test_recorded_completions_with_mistakes_are_refused(tmp_path, change, message):
    problems = CLOCK.load("test", limit=3)
    with pytest.raises(rlif.RlifError, match=message):
        grade_outputs(CLOCK, problems, write(tmp_path / "outputs.jsonl", change(rows(problems))))


def call(*arguments: str):
    return CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=True)


def test_the_command_line(run, model_folder, tmp_path):
    common = ("--tasks", "clock", "--limit", "4", "--max-tokens", "6", "--batch-size", "4")
    done = call(str(model_folder), str(run.path), *common, "--check-gold", "--output", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "clock: 4 of 4 golds grade as right" in done.output
    assert "over 4 problems" in done.output and "sign test p = 1" in done.output
    assert (tmp_path / "out" / model_folder.name / "clock.json").is_file()
    assert sorted(run.evaluations()["clock"]) == [0, 3, 5]
    sampled = call(str(model_folder), *common, "--n", "4", "--output", str(tmp_path / "sampled"))
    assert "mean@4" in sampled.output and "pass@4" in sampled.output and "temperature 1.0" in sampled.output
    outputs = write(tmp_path / "outputs.jsonl", rows(CLOCK.load("test", limit=4)))
    graded = call("--tasks", "clock", "--limit", "4", "--outputs", outputs, "--output", str(tmp_path / "graded"))
    assert "100.0% [51.0, 100.0]" in graded.output
    assert (tmp_path / "graded" / "outputs" / "clock.jsonl").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-reasoner"], "name the tasks"),
        (["--tasks", "clock"], "give a model"),
        (["tiny-reasoner", "--tasks", "klock"], "did you mean 'clock'"),
        (["tiny-reasoner", "--tasks", "gsm8k.papers"], "did you mean 'paper'"),
        (["./nowhere", "--tasks", "clock"], "no such model folder"),
        (["tiny-reasoner", "--tasks", "clock", "--source", "clock"], "a source looks like"),
        (["tiny-reasoner", "--tasks", "clock", "--engine", "vlm"], "unknown engine 'vlm'"),
        (["tiny-reasoner", "--tasks", "gsm8k", "--source", "gsm8k=./no.jsonl"], "no such data file"),
        (["tiny-reasoner", "--tasks", "clock", "--prompt", "boxd"], "did you mean 'boxed'"),
        (["tiny-reasoner", "--tasks", "clock", "--n", "2", "--temperature", "0"], "would be the same"),
        (["--tasks", "clock,cups", "--outputs", "x.jsonl"], "are of one task"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    done = call(*arguments)
    assert isinstance(done.exception, rlif.RlifError) and message in str(done.exception)


def test_a_prompt_from_a_file(model_folder, tmp_path):
    (tmp_path / "mine.yaml").write_text('system: Be brief.\nuser: "Q: {problem}"\n')
    common = ("--tasks", "clock", "--limit", "2", "--max-tokens", "2", "--output", str(tmp_path / "out"))
    assert call(str(model_folder), *common, "--prompt", str(tmp_path / "mine.yaml")).exit_code == 0
    scores = json.loads((tmp_path / "out" / model_folder.name / "clock.json").read_text())
    assert scores["prompt"] == {"user": "Q: {problem}", "system": "Be brief.", "end": "\n"}


def test_tasks_are_listed_with_their_protocols():
    done = CliRunner(env={"COLUMNS": "140"}).invoke(app, ["tasks"])
    listed = {line.split()[0] for line in done.output.splitlines() if line.split()}
    expected = {f"{name}.{key}" for name, task in rlif.TASKS.items() for key in list(task.protocols)[1:]}
    assert expected | set(rlif.TASKS) <= listed


def test_models_of_one_name_do_not_share_files(run, model_folder, tmp_path):
    """Models of runs get the run's name; else one would overwrite the other and be compared with itself."""
    folders = [shutil.copytree(model_folder, tmp_path / name / "model") for name in ("a", "b")]
    both = [candidate for folder in folders for candidate in candidates(str(folder), tmp_path / "evals")]
    with pytest.raises(rlif.RlifError, match=r"would both go to .*evals/model; rename one"):
        check_distinct(both)
    for folder in folders:
        shutil.copy(run.path / "recipe.yaml", folder.parent)
    both = [candidate for folder in folders for candidate in candidates(str(folder), tmp_path / "evals")]
    check_distinct(both)
    assert [candidate.label for candidate in both] == ["a-model", "b-model"]
    other = shutil.copytree(model_folder, tmp_path / "a" / "mine")  # beside a recipe, and no part of a run
    assert candidates(str(other), tmp_path / "evals")[0].label == "mine"


def test_a_source_applies_to_every_protocol_of_its_task():
    task, sources = find_task("gsm8k.paper"), {"gsm8k": "here", "math": "there"}
    assert of_task(task, sources) == "here" and of_task(task, {**sources, "gsm8k.paper": "x"}) == "x"
    assert of_task(find_task("cups"), sources) is None
    assert of_task(find_task("gsm8k.boxed"), {"gsm8k.boxed": "said in full"}) == "said in full"
    check_sources({"gsm8k.boxed": "x", "gsm8k": "y"}, [find_task("gsm8k.boxed")])
    check_sources(sources, [])  # nothing is evaluated
    with pytest.raises(rlif.RlifError, match=r"a source is given for 'math', which is not among the tasks; .*gsm8k"):
        check_sources(sources, [task])
