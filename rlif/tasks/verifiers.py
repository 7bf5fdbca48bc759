"""The single-turn environments of verifiers as tasks, `verifiers/my-env`; an optional extra.

An environment is a module with `load_environment`, installed beside this package. Its data set gives the prompts,
its parser the answers, its rubric the scores: a weighted sum of functions, which see what they see in verifiers.
`source` gives the arguments of `load_environment`, `{difficulty: hard}`, or names a YAML file of them.

An answer is right if the rubric gives the full score, the sum of the positive weights. Partial credit counts as
wrong, and a higher score is refused. A function that raises gives 0, as in verifiers, which logs it.

Where there is no data set for evaluation, a hash of a problem's text decides whether it is held out. Verifiers would
evaluate on the data of training. Environments of several turns, with tools, whose rubric asks a model, or whose
functions compare completions with one another are refused.
"""

import asyncio
import importlib
import importlib.util
import inspect
import json
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, ClassVar

from rlif.errors import DataError, MachineError, RecipeError, first_line
from rlif.files import own
from rlif.tasks.miniature import split_of
from rlif.tasks.reasoning_gym import parameters_of, same_text
from rlif.tasks.rows import read_prompt
from rlif.tasks.task import Mark, Protocol, Task
from rlif.types import Problem

PREFIX = "verifiers/"
NAME = re.compile(r"(?:[\w-]+/)?[a-zA-Z][\w-]*")
AT_ONCE = 64  # completions that are scored together, so that none waits until a limit of its rubric
INSTALL = "pip install 'rlif[verifiers]'"
ROUNDING = 1e-6
SPREAD = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

Row = Mapping[str, Any]


def environment_parser(completion: str) -> str | None:
    """Stands for the environment's parser, which `Verifiers` calls."""
    return completion.strip() or None


class Verifiers(Task):
    """One environment."""

    protocols = {
        "default": Protocol(
            extract=environment_parser, equal=same_text, source="the environment's prompts, parser and rubric"
        )
    }
    environment: ClassVar[str] = ""
    reads_data = True
    arguments = "{}"  # of `load_environment`, as of the latest `load`

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if split not in self.splits:
            raise RecipeError(f"task {self.alias} has the splits train and test, not {split!r}.")
        self.arguments = json.dumps(parameters_of(source, self.alias), sort_keys=True)
        environment = _environment(self.environment, self.arguments)
        with own.calling(f"environment {self.alias}", DataError):
            train, held_out = environment.build_dataset(), environment.build_eval_dataset()
        rows = train if split == "train" or held_out is None else held_out
        if rows is None:
            raise DataError(f"{self.alias} has no data set for training; it can only be evaluated.")
        problems: list[Problem] = []
        for number, row in enumerate(rows):
            problem = self._problem(row, split, number)
            if held_out is not None or split_of(problem.text) == split:
                problems.append(problem)
            if len(problems) == limit:
                break
        if not problems:
            raise DataError(f"{self.alias} has no problem of the split {split}, of {len(rows)} rows.")
        _run(_check_functions(environment, problems[0].data["row"], self.alias))
        return problems

    def _problem(self, row: Row, split: str, number: int) -> Problem:
        text, history, _ = read_prompt(row["prompt"], "prompt", f"row {number} of {self.alias}")
        gold = row.get("answer") or row.get("info") or ""
        gold = gold if isinstance(gold, str) else json.dumps(gold, default=str)
        data = {"arguments": self.arguments, "row": row}
        return Problem(f"{self.name}/{split}/{number}", text, gold, data=data, history=history, row=row)

    def extract(self, completion: str) -> str | None:
        return self._parsed(self.arguments, completion)

    def answer(self, problem: Problem, completion: str) -> str | None:
        return self._parsed(problem.data["arguments"], completion)

    def _parsed(self, arguments: str, completion: str) -> str | None:
        environment = _environment(self.environment, arguments)
        with own.calling(f"environment {self.alias}", DataError):
            found = environment.parser.parse_answer([_message(completion)])
        return None if found is None else str(found).strip() or None

    def mark(
        self, problems: Sequence[Problem], completions: Sequence[str], *, unsafe_local: bool = False
    ) -> list[Mark]:
        pairs = list(zip(problems, completions, strict=True))
        with own.calling(f"environment {self.alias}", DataError):
            scores = iter(_run(_score_all(self.environment, [pair for pair in pairs if pair[0].gold is not None])))
        return [
            Mark(self.answer(problem, text), None if problem.gold is None else self._is_full(problem, next(scores)))
            for problem, text in pairs
        ]

    def _is_full(self, problem: Problem, score: float) -> bool:
        full = sum(weight for _, weight in _functions(_environment(self.environment, problem.data["arguments"]).rubric))
        if not score <= full + ROUNDING:  # also not a number
            raise DataError(
                f"{self.alias} gives the score {score:g} where its weights sum to {full:g}; its functions must return 0"
                " to 1, so that a full score can be told."
            )
        return score >= full - ROUNDING

    def gold_completion(self, problem: Problem) -> str | None:
        """Returns the answer in the first of some usual forms that is right; None without one."""
        forms = [form.format(problem.gold) for form in ("{}", "\\boxed{{{}}}", "<answer>{}</answer>")]
        marks = self.mark([problem] * len(forms), forms)
        return next((form for form, mark in zip(forms, marks, strict=True) if mark.right), None)


def find_environment(name: str) -> Task:
    """Returns the task of an environment, named as `verifiers/my-env` or `verifiers/owner/my-env`."""
    environment = name.removeprefix(PREFIX)
    _package()
    module = environment.rpartition("/")[2].replace("-", "_")
    if not NAME.fullmatch(environment) or importlib.util.find_spec(module) is None:
        raise RecipeError(f"verifiers finds no environment {environment!r}: no module {module!r} is installed.")
    about = {"name": f"verifiers-{environment.replace('/', '-')}", "alias": f"{PREFIX}{environment}"}
    return type("Verifiers", (Verifiers,), about | {"environment": environment})()


def _package() -> Any:
    try:
        package = importlib.import_module("verifiers")
    except ImportError as error:
        raise MachineError(f"tasks of verifiers need it: {INSTALL}.") from error
    if not hasattr(package, "load_environment"):
        raise MachineError(f"verifiers {package.__version__} has no load_environment, as from 0.4 on; {INSTALL}.")
    return package


@lru_cache(maxsize=8)
def _environment(name: str, arguments: str) -> Any:
    """Loads an environment; refuses one whose completions cannot be scored one by one and here."""
    package = _package()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        environment = package.load_environment(name, **json.loads(arguments))
    except (Exception, SystemExit) as error:  # loading runs the environment's code, which can raise anything
        why = first_line(error.__cause__ or error).rstrip(".")
        raise RecipeError(f"verifiers cannot load the environment {name}: {why}.") from error
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:  # it takes them, and a run must stop at a checkpoint
                signal.signal(number, handler)
    rubric = environment.rubric
    refusals = {
        "takes several turns": not isinstance(environment, package.SingleTurnEnv),
        "gives the model tools": bool(getattr(environment, "tool_defs", None)),
        "puts text instead of messages": environment.message_type != "chat",
        "asks a model as judge": any(isinstance(each, package.JudgeRubric) for each in _rubrics(rubric)),
        "compares completions with one another": rubric.has_group_rewards,
        "has no function with a positive weight": not _functions(rubric),
    }
    for reason, holds in refusals.items():
        if holds:
            raise RecipeError(f"{PREFIX}{name} {reason}; only single-turn environments that score by code can be used.")
    return environment


def _rubrics(rubric: Any) -> Iterator[Any]:
    yield rubric
    for each in getattr(rubric, "rubrics", ()):
        yield from _rubrics(each)


def _functions(rubric: Any) -> list[tuple[Any, float]]:
    """Lists the functions that add to the score, with their weights."""
    return [pair for each in _rubrics(rubric) for pair in zip(each.funcs, each.weights, strict=True) if pair[1] > 0]


def _message(completion: str) -> Any:
    return importlib.import_module("verifiers.types").AssistantMessage(content=completion)


async def _state(environment: Any, row: Row, completion: str) -> Any:
    """Returns the state that verifiers has after a rollout of one turn."""
    client = _package().OpenAIChatCompletionsClient(None)  # which cannot be called
    state = await environment.init_state(dict(row), client, "")
    state = await environment.setup_state(state) or state
    turn = {"prompt": state["prompt"], "completion": [_message(completion)], "response": None, "tokens": None}
    turn |= {"reward": None, "advantage": None, "is_truncated": False, "extras": {}}
    state["trajectory"].append(turn | {"trajectory_id": state["trajectory_id"]})
    await environment.cleanup(state)  # writes the completion into it
    return state


async def _check_functions(environment: Any, row: Row, alias: str) -> None:
    """Refuses a function that would always raise, and so give 0, for lack of a column."""
    state = await _state(environment, row, "")
    for rubric in _rubrics(environment.rubric):
        known = rubric.score_objects(state)
        for function in rubric.funcs:
            for name, given in inspect.signature(function).parameters.items():
                if given.default is given.empty and given.kind not in SPREAD and name not in known:
                    raise DataError(f"{alias}: its function {function.__name__} asks for {name!r}, which no row has.")


async def _score_all(name: str, pairs: Sequence[tuple[Problem, str]]) -> list[float]:
    async def score(problem: Problem, completion: str) -> float:
        environment = _environment(name, problem.data["arguments"])
        state = await _state(environment, problem.data["row"], completion)
        await environment.rubric.score_rollout(state)
        await environment.rubric.cleanup(state)
        return float(state["reward"])

    scores: list[float] = []
    for first in range(0, len(pairs), AT_ONCE):
        scores += await asyncio.gather(*(score(*pair) for pair in pairs[first : first + AT_ONCE]))
    return scores


@lru_cache(maxsize=1)
def _loop() -> asyncio.AbstractEventLoop:
    return (
        asyncio.new_event_loop()
    )  # one for all calls, since functions may keep locks and clients, which are bound to it


def _run(work: Any) -> Any:
    """Waits for a coroutine, also within a loop that runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _loop().run_until_complete(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_loop().run_until_complete, work).result()
