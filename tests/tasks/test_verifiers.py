"""Environments of verifiers: each test runs with a stand-in for the package, and with the package where it is."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest
from support import verifiers_stand_in
from support.models import byte_tokenizer, tiny_model

import rlif
from rlif.errors import DataError, MachineError, RecipeError, RlifError
from rlif.files.own import is_own
from rlif.graders.accuracy import accuracy
from rlif.graders.batch import Batch
from rlif.tasks import find_task, of_task, verifiers
from rlif.tasks.labels import hide_labels

ENVIRONMENT = """
import asyncio

import verifiers as vf


ROWS = [{"question": f"What is {n} + 1?", "answer": str(n + 1), "info": {"level": n % 3}} for n in range(40)]

def rows(listed):
    try:
        from datasets import Dataset
    except ImportError:
        return listed
    return Dataset.from_list(listed)

async def exact(parser, completion, answer, **_):
    return float(parser.parse_answer(completion) == answer)

def alone(completion, info, level=0):
    return 1.0 if completion[-1]["content"] == f"level {info['level']}" else 0.0

def load_environment(kind="sums", terms=1):
    parser = vf.XMLParser(["answer"])
    rubric = vf.Rubric([exact, parser.get_format_reward_func()], weights=[1.0, 0.2], parser=parser)
    given = {"system_prompt": "Answer within <answer> tags.", "parser": parser}
    data = {"dataset": rows(ROWS[:30]), "eval_dataset": rows(ROWS[30:])}
    make = vf.SingleTurnEnv
    if kind == "terms":
        data = {"dataset": rows([{"question": f"{n} times {terms}?", "answer": str(n * terms)} for n in range(9)])}
    if kind == "undivided":
        del data["eval_dataset"]
    if kind == "held_out":
        del data["dataset"]
    if kind == "judge":
        rubric = vf.JudgeRubric(judge_client=object())
    if kind == "judge_within":
        rubric = vf.RubricGroup([rubric, vf.JudgeRubric(judge_client=object())])
    if kind == "group":
        def best(completions) -> list[float]:
            return [1.0 for _ in completions]
        rubric.add_reward_func(best)
    if kind == "turns":
        class make(vf.MultiTurnEnv):
            async def env_response(self, messages, state, **_):
                return []
    if kind == "unscored":
        rubric = vf.Rubric([exact], weights=[0.0])
    if kind == "column":
        def hard(completion, difficulty):
            return 1.0
        rubric.add_reward_func(hard)
    if kind == "large":
        rubric = vf.Rubric([lambda completion: 2.0])
    if kind == "nan":
        rubric = vf.Rubric([lambda completion: float("nan")])
    if kind == "raises":
        def raises(completion):
            raise ValueError("no number")
        rubric.add_reward_func(raises)
    if kind == "information":
        data = {"dataset": rows([{"question": f"Say level {n}.", "info": {"level": n}} for n in range(9)])}
        rubric = vf.RubricGroup([vf.Rubric([alone]), vf.Rubric([lambda completion: 5.0], weights=[0.0])])
        given = {}
    if kind == "lock":
        gate = asyncio.Semaphore(1)
        async def waits(completion):
            async with gate:
                await asyncio.sleep(0)
            return 1.0
        rubric = vf.Rubric([waits])
    if kind == "parser":
        class Fails(vf.Parser):
            def parse_answer(self, completion):
                raise KeyError("answer")
        given["parser"] = Fails()
    return make(**data, **given, rubric=rubric)
"""


@pytest.fixture(params=["stand-in", "package"])
def package(request, tmp_path, monkeypatch):
    if request.param == "stand-in":
        for name, module in verifiers_stand_in.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    else:
        found = pytest.importorskip("verifiers", reason="no verifiers; pip install 'rlif[verifiers]'")
        if not hasattr(found, "load_environment"):
            pytest.skip("no verifiers before 0.4; pip install 'rlif[verifiers]'")
    (tmp_path / "sums_of_a_test.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("sums_of_a_test", None)
    verifiers._environment.cache_clear()


def task_of(kind="sums", split="train", limit=None):
    task = find_task("verifiers/sums-of-a-test")
    return task, task.load(split, source=f"{{kind: {kind}}}", limit=limit)


def test_prompts_and_scores_are_those_of_the_environment(package):
    task, problems = task_of(split="test", limit=3)
    first = problems[0]
    assert (len(problems), first.text, first.gold) == (3, "What is 30 + 1?", "31")
    assert first.prompt[0] == {"role": "system", "content": "Answer within <answer> tags."}
    texts = ["<answer> 31 </answer>", "<answer>30</answer>", "31", ""]
    marks = task.mark([first] * 4, texts)
    assert [mark.right for mark in marks] == [True, False, False, False]  # the form alone gives 0.2 of 1.2
    assert [mark.answer for mark in marks] == ["31", "30", None, None]
    assert task.extract(texts[0]) == "31" and task.gold_completion(first) == "<answer>31</answer>"
    assert [len(task_of(split=split)[1]) for split in ("train", "test")] == [30, 10]
    assert not {p.id for p in problems} & {p.id for p in task.load("train")}


def test_it_is_a_reward_and_is_evaluated(package):
    task, problems = task_of(limit=2)
    texts = ["<answer>1</answer>", "<answer>3</answer>"]
    batch = Batch(prompts=[], completions=[], texts=texts, completion_ids=[], answers=[], task=task, problems=problems)
    assert accuracy(batch) == [1.0, 0.0] and problems[0].row["answer"] == "1"
    hidden = hide_labels(problems, 1, seed=0)
    assert sorted(mark.right is None for mark in task.mark(hidden, texts)) == [False, True]
    model, tokenizer = tiny_model(), byte_tokenizer()
    scores = rlif.evaluate(model, task, tokenizer=tokenizer, split="test", limit=2, max_tokens=4)
    assert (scores.accuracy.n, scores.accuracy.mean) == (2, 0.0)


def test_arguments_reach_the_environment_and_go_with_the_problems(package):
    task = find_task("verifiers/someone/sums-of-a-test")
    (five,) = task.load("train", source="{kind: terms, terms: 5}", limit=1)
    (two,) = task.load("train", source="{terms: 2, kind: terms}", limit=1)
    assert " times 5?" in five.text and " times 2?" in two.text and task.name == "verifiers-someone-sums-of-a-test"
    fresh = find_task("verifiers/someone/sums-of-a-test")  # grades problems that another object made
    assert fresh.grade(five, f"<answer>{five.gold}</answer>") is True
    given = {"verifiers/someone/sums-of-a-test": "{terms: 3}"}
    assert of_task(task, given) == "{terms: 3}" and not is_own(task.alias)


def test_without_data_for_evaluation_a_part_is_held_out(package):
    (_, train), (_, test) = task_of("undivided"), task_of("undivided", "test")
    assert test and len(train) + len(test) == 30 and not {p.text for p in train} & {p.text for p in test}
    assert len(task_of("held_out", "test")[1]) == 10
    with pytest.raises(DataError, match="no data set for training"):
        task_of("held_out")
    with pytest.raises(RecipeError, match="train and test, not 'validation'"):
        task_of(split="validation")


def test_a_row_without_an_answer_is_graded_by_its_information(package):
    task, problems = task_of("information")
    assert problems[2].gold == f'{{"level": {problems[2].data["row"]["info"]["level"]}}}'
    level = problems[2].data["row"]["info"]["level"]
    assert task.grade(problems[2], f"level {level}") is True and task.grade(problems[2], "level 99") is False
    assert task.gold_completion(problems[2]) is None
    assert find_task(task.alias).answer(problems[2], "level 1") == "level 1"  # by the parser of this kind


def test_a_function_that_raises_gives_nothing(package):
    task, problems = task_of("raises")
    assert task.grade(problems[0], task.gold_completion(problems[0]) or "<answer>1</answer>") is False


def test_functions_may_keep_locks(package):
    task, problems = task_of("lock")
    for _ in range(2):
        assert all(mark.right for mark in task.mark(problems[:3], ["a", "b", "c"]))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("judge", "asks a model as judge; only single-turn environments"),
        ("judge_within", "asks a model as judge"),
        ("group", "compares completions with one another"),
        ("turns", "takes several turns"),
        ("unscored", "has no function with a positive weight"),
        ("column", "its function hard asks for 'difficulty', which no row has"),
    ],
)
def test_environments_that_cannot_be_used(package, kind, message):
    with pytest.raises(RlifError) as found:
        task_of(kind)
    assert message in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("large", "gives the score 2 where its weights sum to 1; its functions must return 0 to 1"),
        ("nan", "gives the score nan"),
        ("parser", "the environment verifiers/sums-of-a-test raised KeyError"),
    ],
)
def test_scores_and_parsers_that_tell_nothing(package, kind, message):
    task, problems = task_of(kind)
    with pytest.raises(DataError) as found:
        task.mark(problems[:1], ["<answer>1</answer>"])
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("sums-of-a-tests", None, "finds no environment 'sums-of-a-tests': no module 'sums_of_a_tests' is installed"),
        ("a.b", None, "finds no environment 'a.b'"),
        ("", None, "finds no environment ''"),
        ("__main__", None, "finds no environment '__main__'"),
        ("sums-of-a-test", "{term: 2}", "cannot load the environment sums-of-a-test: load_environment() got an unexp"),
        ("sums-of-a-test", "two", "expected parameters, as {NAME: VALUE}"),
        ("json", None, "cannot load the environment json: "),
    ],
)
def test_names_and_arguments_that_there_are_not(package, name, source, message):
    with pytest.raises(RecipeError) as found:
        find_task(f"verifiers/{name}").load("train", source=source)
    assert message in str(found.value)


def test_signals_still_stop_a_run_and_a_notebook_can_grade(package):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    task, problems = task_of()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before

    async def notebook():
        return task.grade(problems[0], task.gold_completion(problems[0]))

    assert asyncio.run(notebook()) is True and asyncio.run(notebook()) is True


def test_without_the_package_or_with_one_that_is_too_new(monkeypatch):
    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(MachineError, match=r"pip install 'rlif\[verifiers\]'"):
        find_task("verifiers/sums")
    new = verifiers_stand_in.modules()["verifiers"]
    del new.load_environment
    new.__version__ = "0.4.0"
    monkeypatch.setitem(sys.modules, "verifiers", new)
    with pytest.raises(MachineError, match=r"verifiers 0\.4\.0 has no load_environment.*'rlif\[verifiers\]'"):
        find_task("verifiers/sums")
