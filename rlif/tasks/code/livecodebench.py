"""Loads LiveCodeBench's code generation: contest problems with hidden tests, by date (arXiv 2403.07974).

v6             the release of that name with all before it: 1,055 problems to 2025-04-06
v6-increment   problems that v6 added: 175 from 2025-01-04 on. "LiveCodeBench v6" in papers means either
v5             the release before, 880 problems

`contest_date` decides the split, in any file. Ten samples at temperature 0.2; the code is between the last two lines
with three backquotes; all tests must pass (see `stdin_tests`).

Private tests are base64 of zlib of a pickle. Unpickling can run code, so only plain data is accepted here. All tests of
a split are in memory: gigabytes for v6. Here a program waits for its threads, as Python processes do; the reference
harness does not wait, and misses what such a program prints later.
"""

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlif.answers.extraction import fenced_code
from rlif.errors import DataError, RecipeError, first_line
from rlif.files.tables import SUFFIXES, Row, home, read_rows
from rlif.files.text import PACKED
from rlif.tasks.code.programs import CodeTask, Trial
from rlif.tasks.code.stdin_tests import Test, paired, text_of, trials_of
from rlif.tasks.task import Protocol
from rlif.types import Problem

HUB = "livecodebench/code_generation_lite"
FILES = ("test", "test2", "test3", "test4", "test5", "test6")
DATES = {"v5": ("", "2025-01-04"), "v6-increment": ("2025-01-04", "2025-04-07"), "v6": ("", "2025-04-07")}
LARGEST = 1 << 30  # bytes of unpacked tests
STDIN = "Your program reads from standard input and prints to standard output. Put it into a block as here."
STARTER = "Your program begins with this code. Put it into a block as here."


class PlainUnpickler(pickle.Unpickler):
    """Reads text, numbers, lists and dicts; refuses names of classes and functions."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is not plain data")


class LiveCodeBench(CodeTask):
    """Contest problems to be solved in Python."""

    name = "livecodebench"
    protocols = {
        "default": Protocol(
            "code-program",
            max_tokens=2000,
            temperature=0.2,
            top_p=0.95,
            n=10,
            extract=fenced_code,
            source="LiveCodeBench's lcb_runner: its structure and decoding, our words; 6 s per test, none in all",
        )
    }
    splits = ("v5", "v6-increment", "v6")

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if split not in DATES:
            raise RecipeError(f"task livecodebench has the splits {', '.join(self.splits)}, not {split!r}.")
        source = source or home("livecodebench", HUB)
        first, end = DATES[split]
        dated = [row for row in _rows(source) if first <= str(row.get("contest_date") or "")[:10] < end]
        if not dated:
            raise DataError(f"{source} has no problem of {split}: none is dated from {first or 'the start'} to {end}.")
        return [_problem(row, source) for row in dated[:limit]]

    def trials(self, problem: Problem, answer: str) -> bool | Sequence[Trial]:
        return trials_of(answer, problem.data["tests"], problem.data["function"])


def _rows(source: str) -> list[Row]:
    """Reads all rows of a source: a file, a folder with any of test.jsonl to test6.jsonl, or these files of the hub."""
    path = Path(source).expanduser()
    if source == HUB:
        import datasets

        hub = [f"hf://datasets/{HUB}/{name}.jsonl" for name in FILES]
        try:
            return [dict(row) for row in datasets.load_dataset("json", data_files=hub, split="train")]
        except Exception as error:  # the hub client raises a dozen unrelated types
            raise DataError(
                f"cannot load {HUB} from the hub ({first_line(error)}); give a folder of its files with source=PATH."
            ) from error
    if not path.is_dir():
        return read_rows(source, "test")
    files = [path / f"{name}{suffix}{packed}" for name in FILES for suffix in SUFFIXES for packed in ("", *PACKED)]
    rows = [row for file in files if file.is_file() for row in read_rows(str(file), "test")]
    if not rows:
        raise DataError(
            f"{source} has none of {', '.join(f'{name}.jsonl' for name in FILES)}; expected those of {HUB}."
        )
    return rows


def _problem(row: Row, source: str) -> Problem:
    """Makes a problem from a row in the hub's layout, or in SandboxFusion's {id, content, test, labels}."""
    name = row.get("question_id", row.get("id"))
    try:
        if "question_content" not in row:
            name = json.loads(row["labels"])["task_id"].rpartition("/")[2]
            packed = json.loads(unpack(row["test"])["input_output"])
            text, tests, function = row["content"], paired(packed["inputs"], packed["outputs"]), packed["fn_name"]
        else:
            text = question_prompt(row["question_content"], row.get("starter_code") or "")
            tests = [*read_tests(row["public_test_cases"]), *read_tests(row["private_test_cases"])]
            function = json.loads(row.get("metadata") or "{}").get("func_name")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"problem {name} of {source} is not as {HUB} has them ({type(error).__name__}: {error})."
        ) from error
    data = {"tests": tests, "function": function, "date": str(row.get("contest_date") or "")[:10]}
    return Problem(f"livecodebench/{name}", text, data=data, row=row)


def question_prompt(question: str, starter: str) -> str:
    """Renders a question; `starter` is the code that the program must begin with, or ""."""
    how, code = (STARTER, starter) if starter else (STDIN, "# YOUR CODE HERE")
    return (
        f"### Question:\n{question}\n\n### Format: {how}\n```python\n{code}\n```\n\n### Answer: (in such a block)\n\n"
    )


def read_tests(packed: Any) -> list[Test]:
    """Reads tests from JSON text, from its packed form, or from a list.

    Raises:
        ValueError: it has another form, is larger than a gigabyte, or holds more than plain data.
    """
    if isinstance(packed, str) and not packed.lstrip().startswith("["):
        packed = unpack(packed)
    tests = json.loads(packed) if isinstance(packed, str) else packed
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        raise ValueError("expected a list of tests")
    return [{key: text_of(test[key]) for key in ("input", "output")} for test in tests]


def unpack(packed: str) -> Any:
    """Reads base64 of zlib of a pickle of plain data; raises a ValueError if it has another form."""
    try:
        unzip = zlib.decompressobj()
        data = unzip.decompress(base64.b64decode(packed, validate=True), LARGEST)
        if unzip.unconsumed_tail:
            raise ValueError("larger than a gigabyte")
        return PlainUnpickler(io.BytesIO(data)).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, IndexError, AttributeError) as error:
        raise ValueError(f"not packed as expected ({error})") from error
