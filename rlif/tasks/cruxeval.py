"""Loads CRUXEval-O: predict what a short Python function returns for an input. 800 problems (arXiv 2401.03065).

zeroeval        that harness's prompts and its comparison of text, without execution; used by the Intuitor paper
original        two examples, the assertion to be completed in [ANSWER]; ten samples at temperature 0.2
original_cot    one example, with the steps in [THOUGHT]

The original grades by execution: an answer is right if `assert {gold} == {answer}`, put after the code, passes within
three seconds. So an answer may be an expression, end in a comment or continue with more assertions. An answer that
repeats the call f(input) counts as wrong, as in the published runs; later published code excludes it from the count.

Our rule is stricter, but changes no published verdict: the value of the answer, as plain data, must also equal the gold
in a process that the answer cannot reach. With the original rule alone `0 or True` passes, and so does an object that
equals everything. Two literals are compared without running anything.
"""

import ast
import json
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Self

from rlif.answers.extraction import json_answer
from rlif.files.tables import home, read_rows
from rlif.sandbox.runner import Limits, Program
from rlif.tasks.code.programs import CodeTask, Trial
from rlif.tasks.task import Protocol
from rlif.tasks.zeroeval import load_zeroeval, text_equal
from rlif.types import Problem

LONGEST = 2000  # characters of an assertion; longer ones count as wrong
LIMITS = Limits(seconds=3)
SHOTS = (
    (
        'def f(word, n):\n    return word * n + "!"',
        '"ab", 2',
        '"abab!"',
        'word is "ab" and n is 2. word * n repeats the word twice, "abab", and with "!" after it that is "abab!".',
    ),
    (
        "def f(xs):\n    kept = []\n    for x in xs:\n        if x % 2:\n            kept.append(x)\n    return kept",
        "[1, 2, 3]",
        "[1, 3]",
        "xs is [1, 2, 3]. 1 is odd and kept, 2 is left out, 3 is odd and kept, so the list is [1, 3].",
    ),
)


def answer_tag(text: str) -> str | None:
    """Returns what follows `==` in the assertion in [ANSWER], or all of it without `==`. The tag may be missing."""
    inside = text.partition("[/ANSWER]")[0]
    inside = (inside.partition("[ANSWER]")[2] if "[ANSWER]" in inside else inside).strip()
    left = _left_side(inside)
    return inside[len(left) :].partition("==")[2].strip() or None if "==" in inside else inside or None


def _left_side(assertion: str) -> str:
    """Returns an assertion up to its comparison, as an input may contain `==` too; "" if it cannot be parsed."""
    match _parse(assertion):
        case ast.Module(body=[ast.Assert(test=ast.Compare(left=left)), *_]):
            lines = assertion.encode().split(b"\n")
            before = lines[: (left.end_lineno or 1) - 1]
            return b"\n".join([*before, lines[len(before)][: left.end_col_offset]]).decode()
    return ""


def _parse(source: str) -> ast.Module | SyntaxError | None:
    """Parses a source, or returns the error if it is not Python, or None if it is too long or too deep."""
    if len(source) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        return error
    except ValueError:  # a null byte
        return SyntaxError("null byte")
    except (MemoryError, RecursionError):
        return None


def check_literals(assertion: str) -> bool | str:
    """Returns whether an assertion that two literals are equal holds, or the right side of another assertion.

    Returns False for anything else: not Python, a comparison other than `==`, a text that is too long.
    """
    match _parse(assertion):
        case ast.Module(body=[ast.Assert(test=ast.Compare(left, [ast.Eq(), *_], [right, *more])), *rest]):
            try:
                with suppress(OverflowError, TypeError, ValueError):  # one of them is not a literal
                    if not more and not rest:
                        return bool(ast.literal_eval(left) == ast.literal_eval(right))
                return ast.unparse(right)
            except (MemoryError, RecursionError):
                return False
    return False


def example(code: str, given: str, *, thought: bool) -> str:
    """Renders a problem, up to where its completion begins."""
    return f"[PYTHON]\n{code}\nassert f({given}) == ??\n[/PYTHON]\n[{'THOUGHT' if thought else 'ANSWER'}]\n"


def solved(given: str, gold: str, steps: str | None) -> str:
    """Renders the completion of `example`, with its steps if there are any."""
    before = "" if steps is None else f"{steps}\n[/THOUGHT]\n[ANSWER]\n"
    return f"{before}assert f({given}) == {gold}\n[/ANSWER]\n\n"


ORIGINAL = Protocol(
    "cruxeval-direct",
    chat=False,
    stop=("[/ANSWER]",),
    temperature=0.2,
    top_p=0.95,
    n=10,
    extract=answer_tag,
    source="facebookresearch/cruxeval: its form, markers and decoding; sentences and examples are ours",
)


class CruxEval(CodeTask):
    """Problems that ask for the output of a function."""

    name = "cruxeval"
    protocols = {
        "zeroeval": Protocol(
            max_tokens=4096, extract=json_answer, equal=text_equal, source="ZeroEval, its own prompts"
        ),
        "original": ORIGINAL,
        "original_cot": replace(ORIGINAL, prompt="cruxeval-cot", max_tokens=2048),
    }
    splits = ("test",)
    runs_code = False

    def under(self, protocol: str) -> Self:
        task = super().under(protocol)
        task.runs_code = protocol != "zeroeval"
        return task

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if not self.runs_code:
            return load_zeroeval("crux", split, source, limit)
        source = source or home("cruxeval/cruxeval.jsonl", "cruxeval-org/cruxeval")
        rows = read_rows(source, split, ("id", "code", "output"), present=("input",))[:limit]
        thought = self.protocol_name == "original_cot"
        shots = tuple(
            example(code, given, thought=thought) + solved(given, gold, steps if thought else None)
            for code, given, gold, steps in SHOTS[: 1 if thought else 2]
        )
        return [
            Problem(
                row["id"],
                example(row["code"], row["input"] or "", thought=thought),
                row["output"],
                data={"code": row["code"], "input": row["input"] or ""},
                shots=shots,
                row=row,
            )
            for row in rows
        ]

    def equal(self, answer: str, gold: str) -> bool:
        """Compares two answers as text, or as values of literals."""
        return super().equal(answer, gold) or (self.runs_code and check_literals(f"assert {gold} == {answer}") is True)

    def trials(self, problem: Problem, answer: str) -> bool | Sequence[Trial]:
        if not self.runs_code:
            return self.equal(answer, problem.gold or "")
        if f"f({problem.data['input']})" in answer:
            return False
        assertion = f"assert {problem.gold} == {answer}"
        verdict = check_literals(assertion)
        if isinstance(verdict, bool):
            return verdict
        source = f"{problem.data['code']}\n{assertion}\n\ndef value():\n    return {verdict}\n"
        return [Trial(Program(source, tests=f"assert call('value') == ({problem.gold})", limits=LIMITS))]

    def gold_completion(self, problem: Problem) -> str | None:
        if problem.gold is None:
            return None
        if self.runs_code:
            steps = "We run it." if self.protocol_name == "original_cot" else None
            return solved(problem.data["input"], problem.gold, steps)
        # Braces are escaped because the harness counts those inside strings too.
        answer = json.dumps(problem.gold).replace("{", "\\u007b").replace("}", "\\u007d")
        return f'{{"reasoning": "We run it.", "answer": {answer}}}'
