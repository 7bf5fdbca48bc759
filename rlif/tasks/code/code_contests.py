"""Loads programming contests for training: problems with inputs and outputs of tests (arXiv 2203.07814).

A file may have one of four layouts:

    {description, public_tests, private_tests, generated_tests: {input: [...], output: [...]}}   deepmind/code_contests
    {problem, tests: {inputs: [...], outputs: [...]}}
    {problem, tests: [{input, output}, ...]}
    {content, test: [{input: {stdin}, output: {stdout}}, ...]}                                   that list as JSON

A completion is right if its program prints the expected output in every test, by LiveCodeBench's comparison. So a right
program may fail a problem that allows more than one output.
"""

import json
from collections.abc import Sequence

from rlif.answers.extraction import fenced_code
from rlif.errors import DataError
from rlif.files.tables import Row, home, read_rows
from rlif.tasks.code.livecodebench import question_prompt
from rlif.tasks.code.programs import CodeTask, Trial
from rlif.tasks.code.stdin_tests import Test, paired, text_of, trials_of
from rlif.tasks.task import Protocol
from rlif.types import Problem

TEXTS = ("description", "problem", "content")
GROUPS = ("public_tests", "private_tests", "generated_tests")


class CodeContests(CodeTask):
    """Contest problems, from standard input to standard output."""

    name = "code_contests"
    protocols = {"default": Protocol("code-program", max_tokens=3072, extract=fenced_code)}

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        file = "code_contests/code_contests_test.json.gz" if split == "test" else "code_contests"
        source = source or home(file, "deepmind/code_contests")
        problems = []
        for number, row in enumerate(read_rows(source, split)[:limit]):
            text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
            if text is None:
                raise DataError(
                    f"row {number + 1} of {source} has none of {', '.join(TEXTS)}; it has {', '.join(row)}."
                )
            try:
                data = {"tests": read_tests(row)}
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"the tests of row {number + 1} of {source} have none of the known layouts"
                    f" ({type(error).__name__}: {error})."
                ) from error
            name = f"code_contests/{split}/{row.get('name') or row.get('id', number)}"
            problems.append(Problem(name, question_prompt(text.strip(), ""), data=data, row=row))
        return problems

    def trials(self, problem: Problem, answer: str) -> bool | Sequence[Trial]:
        return trials_of(answer, problem.data["tests"])


def read_tests(row: Row) -> list[Test]:
    """Reads the tests of a row in one of the four layouts.

    Raises:
        KeyError, TypeError, ValueError: it has another layout.
    """
    if "public_tests" in row:
        groups = [row[name] for name in GROUPS if row.get(name)]
        return [test for group in groups for test in paired(group["input"], group["output"])]
    if "test" in row:
        tests = json.loads(row["test"]) if isinstance(row["test"], str) else row["test"]
        return [{"input": test["input"]["stdin"], "output": test["output"]["stdout"]} for test in tests]
    tests = row["tests"]
    if isinstance(tests, dict):
        return paired(tests["inputs"], tests["outputs"])
    return [{"input": text_of(test["input"]), "output": text_of(test["output"])} for test in tests]
