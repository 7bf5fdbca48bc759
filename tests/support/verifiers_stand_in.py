"""Stands in for the package verifiers, as far as `rlif.tasks.verifiers` uses it, with the same names and results."""

from __future__ import annotations

import importlib
import inspect
import signal
import sys
import types
from types import SimpleNamespace
from typing import Any

AssistantMessage = dict


class Parser:
    def parse_answer(self, completion):
        return completion[-1]["content"]


class XMLParser(Parser):
    def __init__(self, fields):
        (self.field,) = fields

    def parse_answer(self, completion):
        _, tag, rest = completion[-1]["content"].rpartition(f"<{self.field}>")
        answer, end, _ = rest.partition(f"</{self.field}>")
        return answer.strip() if tag and end else None

    def get_format_reward_func(self):
        def format_reward_func(completion, **_):
            return float(self.parse_answer(completion) is not None)

        return format_reward_func


class Rubric:
    def __init__(self, funcs=None, weights=None, parser=None):
        self.funcs = list(funcs or [])
        self.weights = list(weights or [1.0] * len(self.funcs))
        self.parser = parser or Parser()
        self.closed = 0

    def add_reward_func(self, function, weight=1.0):
        self.funcs.append(function)
        self.weights.append(weight)

    @property
    def has_group_rewards(self):
        return any("completions" in inspect.signature(function).parameters for function in self.funcs)

    def score_objects(self, state):
        return {**state["input"], **{name: state[name] for name in ("prompt", "completion", "answer", "info")}} | {
            "state": state,
            "task": state["input"],
            "parser": self.parser,
        }

    async def score_rollout(self, state):
        total = 0.0
        for function, weight in zip(self.funcs, self.weights, strict=True):
            parameters = inspect.signature(function).parameters.values()
            known = self.score_objects(state)
            if not any(each.kind == each.VAR_KEYWORD for each in parameters):
                known = {each.name: known[each.name] for each in parameters if each.name in known}
            try:
                found = function(**known)
                total += weight * float(await found if inspect.isawaitable(found) else found)
            except Exception as error:
                print(f"Error calling reward function: {error}", file=sys.stderr)
        state["reward"] = total

    async def cleanup(self, state):
        self.closed += 1


class RubricGroup(Rubric):
    def __init__(self, rubrics):
        super().__init__()
        self.rubrics = rubrics

    @property
    def has_group_rewards(self):
        return any(rubric.has_group_rewards for rubric in self.rubrics)

    async def score_rollout(self, state):
        total = 0.0
        for rubric in self.rubrics:
            await rubric.score_rollout(state)
            total += state["reward"]
        state["reward"] = total


class JudgeRubric(Rubric):
    def __init__(self, judge_client=None):
        super().__init__()


class Environment:
    message_type = "chat"

    def __init__(self, dataset=None, eval_dataset=None, system_prompt=None, parser=None, rubric=None, tool_defs=None):
        self.dataset, self.eval_dataset, self.system_prompt = dataset, eval_dataset, system_prompt
        self.parser, self.rubric, self.tool_defs = parser or Parser(), rubric or Rubric(), tool_defs
        signal.signal(signal.SIGTERM, lambda *_: None)

    def _built(self, rows):
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return rows and [
            {"prompt": [*system, {"role": "user", "content": row["question"]}]} | row | {"example_id": i}
            for i, row in enumerate(rows)
        ]

    def build_dataset(self):
        return self._built(self.dataset)

    def build_eval_dataset(self):
        return self._built(self.eval_dataset)

    async def init_state(self, row, client, model):
        assert isinstance(client, OpenAIChatCompletionsClient)
        state: dict[str, Any] = {"input": row, "answer": "", "info": {}} | row
        return state | {"trajectory": [], "trajectory_id": "0", "completion": None}

    async def setup_state(self, state):
        return state

    async def cleanup(self, state):
        state["completion"] = state["trajectory"][-1]["completion"]


class MultiTurnEnv(Environment):
    pass


class SingleTurnEnv(MultiTurnEnv):
    pass


class OpenAIChatCompletionsClient:
    def __init__(self, client):
        assert client is None


def load_environment(name: str, **arguments: Any) -> Environment:
    try:
        return importlib.import_module(name.rpartition("/")[2].replace("-", "_")).load_environment(**arguments)
    except ImportError as error:
        raise ValueError(f"Could not import {name!r} environment.") from error
    except Exception as error:
        raise RuntimeError(f"Failed to load environment {name!r}: {error}") from error


def modules() -> dict[str, types.ModuleType | SimpleNamespace]:
    """Returns what to put into `sys.modules`."""
    package = types.ModuleType("verifiers")
    vars(package).update({name: value for name, value in globals().items() if not name.startswith("_")})
    return {"verifiers": package, "verifiers.types": SimpleNamespace(AssistantMessage=AssistantMessage)}
