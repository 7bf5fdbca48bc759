"""Absolute Zero, deduction alone: the policy proposes Python functions with inputs, and predicts what they return.

    propose       a function `f` and an input, in view of examples from a buffer
    check         the sandbox runs it twice, with two hash seeds; what does not run or differs is discarded
    solve         the policy predicts the output n times; a prediction is right if it is a literal of equal value
    learnability  1 - the share of right predictions, and 0 where none is right
    train         solver: right predictions, for dpo against wrong ones. Proposer: proposals with a positive
                  learnability, for dpo against a worse one of the same prompt

Source: arXiv 2505.03335, and its code LeapLabTHU/Absolute-Zero-Reasoner: the seed of the buffer is the identity with
"Hello world" (`azr_ray_trainer.py`); a proposal's reward is `one_minus`, with 0 where no prediction is right
(`reward_managers.py`, read in a fork). 8 predictions and answer tags as there. The paper's text could not be read here.

Left out: abduction and induction; REINFORCE++ (rounds train by SFT or DPO); penalties of -0.5 and -1; rewards for
complexity and diversity; composite functions.

Otherwise than there: modules are those of an allow list, where the code has banned words; outputs are literals of at
most 300 characters; the words of the prompts are ours. The problems of the recipe's task are not used; their number is
how many proposals are sampled.
"""

import ast
import json
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlif.config.recipe import Recipe
from rlif.config.rounds import options_of
from rlif.engines.rounds.examples import Built, Round, by_values, in_batches
from rlif.errors import DataError, RecipeError
from rlif.files.atomic import replace_file, writing
from rlif.files.jsonl import JsonLog, Row
from rlif.sampling.sampler import Decoding
from rlif.sandbox.runner import Limits, Outcome, Program, require_sandbox, run_programs
from rlif.tasks import Task
from rlif.tasks.cruxeval import check_literals
from rlif.tasks.prompts import Prompt
from rlif.tasks.rendering import render_all
from rlif.types import Problem

OPTIONS: dict[str, Any] = {
    "examples": 6,  # from the buffer, shown with each request
    "proposals": 4,  # sampled of each request
    "least_runnable": 0.1,  # share of proposals that must run; ours
}
LIMITS = Limits(seconds=3, memory_mib=512)
LONGEST = 300  # characters of an output, and of an input
MODULES = ("math", "itertools", "functools", "collections", "re", "string", "operator", "heapq", "bisect", "fractions")
FORBIDDEN = {
    *("open", "input", "print", "exec", "eval", "compile", "globals", "locals", "vars", "id", "hash", "dir"),
    *("breakpoint", "exit", "quit", "help", "memoryview", "object", "getattr", "setattr", "delattr"),
}

PROPOSE = """Here are Python functions, each with an input and what it returns for that input.

{examples}

Write a new function, different from all of these, and an input for it. Somebody will be asked what it returns for that
input, without running it. Make that take several steps of thought, but make it possible.

- The function is called f. It always returns the same: no random numbers, no time, no files, no printing.
- It may import these modules and no others: {modules}.
- The input holds the arguments of one call as literals, with commas between them.
- It returns a number, text, a truth value, None, or a list, tuple, set or dict of these.

Answer with these two blocks:
```python
def f(...):
    ...
```
```input
...
```"""
SOLVE = """Here are a Python function and an input.

```python
{code}
```
```input
{input}
```

What does f({input}) return? Think step by step, then write the result as a literal of Python between <answer> and
</answer>."""
# Begins a program that starts Python anew with another hash seed; the sandbox has 0.
OTHER_SEED = """import os, sys
if os.environ.get("PYTHONHASHSEED") != "1":
    os.execve(sys.executable, [sys.executable, __file__], {**os.environ, "PYTHONHASHSEED": "1"})
del os, sys

"""
BLOCK = {name: re.compile(rf"```{name}[ \t]*\n(.*?)\n?```", re.DOTALL) for name in ("python", "input")}
ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Proposal:
    """A function and the arguments of a call, as text, with the literal that it returns."""

    code: str
    input: str
    output: str

    def shown(self) -> str:
        """Renders it as an example."""
        return f"```python\n{self.code}\n```\n```input\n{self.input}\n```\nf({self.input}) returns {self.output}"


SEED = Proposal("def f(a):\n    return a", '"Hello world"', "'Hello world'")


def propose_prompt(examples: Sequence[Proposal]) -> str:
    """Renders a request for a new function."""
    shown = "\n\n".join(example.shown() for example in examples)
    return PROPOSE.replace("{modules}", ", ".join(MODULES)).replace("{examples}", shown)


def solve_prompt(code: str, given: str) -> str:
    """Renders the question what a function returns; braces inside it stay as they are."""
    texts = {"code": code, "input": given}
    return re.sub(r"\{(code|input)\}", lambda found: texts[found.group(1)], SOLVE)


def parse_proposal(text: str) -> tuple[str, str] | str:
    r"""Reads code and input of a proposal, or says in a few words why it is none. Nothing is run.

    Example:
        >>> parse_proposal("```python\ndef f(x):\n    return x + 1\n```\n```input\n1\n```")
        ('def f(x):\n    return x + 1', '1')
    """
    found = {name: pattern.search(text) for name, pattern in BLOCK.items()}
    if not found["python"] or not found["input"]:
        return "it lacks a block"
    code, given = found["python"].group(1).strip("\n"), found["input"].group(1).strip()
    try:
        module = ast.parse(code)
        call = ast.parse(f"f({given})", mode="eval").body
        if len(given) > LONGEST or not isinstance(call, ast.Call) or ast.unparse(call.func) != "f":
            return "its input is not the arguments of a call"
        for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(value)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return "it is not Python, or its input has other things than literals"
    return _forbidden(module) or (code, given)


def _forbidden(module: ast.Module) -> str:
    """Says what code has that a proposal may not have; "" if there is nothing."""
    if not all(isinstance(part, ast.FunctionDef | ast.Import | ast.ImportFrom) for part in module.body):
        return "it has more than functions and imports"
    if not any(isinstance(part, ast.FunctionDef) and part.name == "f" for part in module.body):
        return "it has no function f"
    for node in ast.walk(module):
        if isinstance(node, ast.Import) and not all(alias.name in MODULES for alias in node.names):
            return "it imports another module"
        if isinstance(node, ast.ImportFrom) and (node.level or node.module not in MODULES):
            return "it imports another module"
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name in FORBIDDEN or name.startswith("__"):
            return "it uses a forbidden name"
    return ""


def check_proposals(parsed: Sequence[tuple[str, str] | str]) -> list[Proposal | str]:
    """Runs proposals and adds what they return, or says in a few words why one cannot be used.

    Each runs twice. The order of a set of texts differs between the two, by Python's hash seed.

    Raises:
        MachineError: there is no sandbox here.
    """
    usable = {i: each for i, each in enumerate(parsed) if not isinstance(each, str)}
    runs = []
    for start in ("", OTHER_SEED):
        mark = f"<{secrets.token_hex(16)}>"  # what the function itself cannot write
        ends = f"print({mark!r} + repr(f("
        programs = [Program(f"{start}{code}\n\n{ends}{given})))\n") for code, given in usable.values()]
        runs.append([_returned(outcome, mark) for outcome in run_programs(programs, LIMITS)])
    checked: list[Proposal | str] = [each if isinstance(each, str) else "" for each in parsed]
    for i, first, second in zip(usable, *runs, strict=True):
        checked[i] = _verdict(*usable[i], first, second)
    return checked


def _returned(outcome: Outcome, mark: str) -> str | None:
    """Returns the representation that a program printed behind a mark; None if it failed."""
    return outcome.stdout.rpartition(mark)[2].removesuffix("\n") if outcome.ok and mark in outcome.stdout else None


def _verdict(code: str, given: str, first: str | None, second: str | None) -> Proposal | str:
    if first is None or second is None:
        return "it does not run"
    if len(first) > LONGEST or "\n" in first:
        return "its output is too long"
    try:
        values = [ast.literal_eval(text) for text in (first, second)]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return "its output is not a literal"
    if values[0] != values[1] or type(values[0]) is not type(values[1]):
        return "it returns another value each time"
    return Proposal(code, given, first)


def answer_of(prediction: str) -> str | None:
    """Reads the last answer between tags, without backquotes around it; None if there is none."""
    found = ANSWER.findall(prediction)
    return found[-1].strip().strip("`").strip() or None if found else None


def is_right(answer: str | None, output: str) -> bool:
    """Tells whether an answer is a literal of the output's value."""
    return answer is not None and len(answer) <= 2 * LONGEST and check_literals(f"assert {output} == {answer}") is True


def learnability(right: Sequence[bool]) -> float:
    """Computes 1 - the share of right predictions; 0 where none is right, as where all are.

    Example:
        >>> learnability([True, False, False, False]), learnability([False, False])
        (0.75, 0.0)
    """
    share = sum(right) / len(right) if right else 0.0
    return 1 - share if share > 0 else 0.0


def check(recipe: Recipe, task: Task, problems: Sequence[Problem]) -> None:
    """Refuses options that mean nothing, and a machine without a sandbox.

    Raises:
        RecipeError: an option.
        MachineError: says what to install.
    """
    options = options_of(recipe, OPTIONS)
    for name in ("examples", "proposals"):
        if options[name] < 1:
            raise RecipeError(f"rounds.options.{name} must be at least 1, not {options[name]}.")
    if recipe.algorithm == "dpo" and options["proposals"] < 2:
        raise RecipeError("rounds.options.proposals is 1, and a pair of proposals takes two of a request; raise it.")
    if not 0 <= options["least_runnable"] <= 1:
        raise RecipeError(f"rounds.options.least_runnable is a share from 0 to 1, not {options['least_runnable']}.")
    require_sandbox()


def propose_and_solve(round_: Round) -> list[Row]:
    """Samples the rows of a round: proposals, then predictions for those that run.

    Proposals have the id propose/ROUND/REQUEST, `valid` and `learnability` (None where not valid); predictions have
    deduce/ROUND/PROPOSAL. All have `prompt_ids`.

    Raises:
        DataError: too few proposals run.
    """
    options = options_of(round_.recipe, OPTIONS)
    buffer = [SEED, *_read_buffer(round_.before)]
    proposed = _propose(round_, buffer, options)
    texts = [row["completion"] for row in proposed]
    size = round_.scorer.batch_size

    def work(part: Sequence[str], number: int) -> list[Row]:
        found = check_proposals([parse_proposal(text) for text in part])
        return [{"why": each} if isinstance(each, str) else asdict(each) for each in found]

    batches = in_batches(round_.folder / "checked.jsonl", texts, size, work, "running proposals")
    found = [row for batch in batches for row in batch]
    check_runnable([row.get("why") for row in found], options["least_runnable"])
    checked = [None if "why" in row else Proposal(**row) for row in found]
    old = {(each.code, each.input) for each in buffer}
    new = {(each.code, each.input): each for each in checked if each and (each.code, each.input) not in old}
    groups = _solve(round_, list(new.values()))
    chances = {key: learnability([row["right"] for row in group]) for key, group in zip(new, groups, strict=True)}
    for row, each in zip(proposed, checked, strict=True):
        chance = None if each is None else chances.get((each.code, each.input), 0.0)
        row |= {"valid": each is not None, "learnability": chance}
    _write_buffer(round_.folder, [*buffer[1:], *new.values()])
    return [*proposed, *(row for group in groups for row in group)]


def check_runnable(whys: Sequence[str | None], least: float) -> None:
    """Refuses proposals of which too few can be used; `whys` says why not, None for one that can.

    Raises:
        DataError: says how many, and the commonest reason.
    """
    failed = Counter(why for why in whys if why is not None)
    if (usable := len(whys) - failed.total()) < max(1, least * len(whys)):
        (why, count), *_ = failed.most_common(1) or [("there is none", 0)]
        raise DataError(
            f"{usable} of {len(whys)} proposals are functions that run and return a literal, and at least {least:.0%}"
            f" must (of {count}, {why}); this model cannot propose problems, so train one that writes Python, or take a"
            " task that has problems."
        )


def _propose(round_: Round, buffer: Sequence[Proposal], options: dict[str, Any]) -> list[Row]:
    """Samples proposals, several of each request, as many as the round has problems."""
    n, scorer = options["proposals"], round_.scorer
    requests = range(-(-len(round_.problems) // n))

    def work(part: Sequence[int], number: int) -> list[Row]:
        texts = []
        for request in part:
            rng = round_.rng("examples", request)
            texts.append(propose_prompt(rng.sample(buffer, min(options["examples"], len(buffer)))))
        prompts = render_all(scorer.tokenizer, Prompt(), texts, scorer.chat)
        how = replace(round_.decoding, n=n, seed=round_.rng("propose", number).randrange(2**31))
        names = [f"propose/{round_.number:03d}/{request:04d}" for request in part]
        return _rows(round_, names, prompts, how)

    size = max(1, scorer.batch_size // n)
    batches = in_batches(round_.folder / "proposed.jsonl", requests, size, work, "proposing functions")
    return [row for batch in batches for row in batch]


def _solve(round_: Round, proposals: Sequence[Proposal]) -> list[list[Row]]:
    """Samples predictions of each proposal's output, and grades them."""
    n, scorer = round_.decoding.n, round_.scorer
    names = {each: f"deduce/{round_.number:03d}/{i:04d}" for i, each in enumerate(proposals)}

    def work(part: Sequence[Proposal], number: int) -> list[Row]:
        texts = [solve_prompt(each.code, each.input) for each in part]
        prompts = render_all(scorer.tokenizer, Prompt(), texts, scorer.chat)
        how = replace(round_.decoding, seed=round_.rng("solve", number).randrange(2**31))
        rows = _rows(round_, [names[each] for each in part], prompts, how)
        for i, row in enumerate(rows):
            answer = answer_of(row["completion"])
            row |= {"answer": answer, "right": is_right(answer, part[i // n].output)}
        return rows

    size = max(1, scorer.batch_size // n)
    batches = in_batches(round_.folder / "solved.jsonl", proposals, size, work, "predicting outputs")
    rows = [row for batch in batches for row in batch]
    return [rows[i : i + n] for i in range(0, len(rows), n)]


def _rows(round_: Round, names: Sequence[str], prompts: Sequence[list[int]], how: Decoding) -> list[Row]:
    """Samples rows of prompts, with all signals."""
    completions = round_.complete(prompts, replace(how, ends=round_.scorer.ends))
    scores = round_.scorer.score_ids([(each.prompt_ids, each.completion_ids) for each in completions])
    return [
        {
            "id": names[i // how.n],
            "sample": i % how.n,
            "prompt_ids": list(completion.prompt_ids),
            "completion": completion.text,
            "completion_ids": list(completion.completion_ids),
            "answer": None,
            "right": None,
            "tokens": len(completion.completion_ids),
            "truncated": completion.truncated,
            **score,
        }
        for i, (completion, score) in enumerate(zip(completions, scores, strict=True))
    ]


def _read_buffer(folder: Path | None) -> list[Proposal]:
    """Reads the proposals of all rounds up to this one."""
    return [] if folder is None else [Proposal(**row) for _, row in JsonLog(folder / "buffer.jsonl").rows()]


def _write_buffer(folder: Path, proposals: Sequence[Proposal]) -> None:
    with writing(folder / "buffer.jsonl"):
        replace_file(
            folder / "buffer.jsonl", "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in proposals)
        )


def verified(round_: Round, groups: list[list[Row]]) -> Built:
    """Chooses right predictions, and proposals that can be learned from; for dpo each against a worse one."""
    values = [[_proposer_value(row) if "valid" in row else _solver_value(row) for row in group] for group in groups]
    built = by_values(round_, groups, values, 0)
    rows = [row for group in groups for row in group]
    proposed = [row for row in rows if "valid" in row]
    right = [row["right"] for row in rows if "valid" not in row]
    proposals = sum(example.id.startswith("propose/") for example in built.examples)
    counts = {
        "runnable": sum(row["valid"] for row in proposed) / max(1, len(proposed)),
        "predicted": sum(right) / max(1, len(right)),
        "learnability": sum(row["learnability"] or 0.0 for row in proposed) / max(1, len(proposed)),
        "proposal_examples": float(proposals),
    }
    return Built(built.examples, built.counts | counts)


def _proposer_value(row: Row) -> tuple[float, ...]:
    """Orders proposals by learnability; those that do not run come last."""
    return (row["learnability"],) if row["valid"] else (-1.0,)


def _solver_value(row: Row) -> tuple[float, ...]:
    """Orders predictions by whether they are right, then by self-certainty."""
    sure = row.get("self_certainty")
    return (float(row["right"]), -1.0 if sure is None else sure)
