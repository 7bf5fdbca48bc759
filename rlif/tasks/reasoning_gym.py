"""The procedural families of reasoning-gym as tasks, `reasoning_gym/chain_sum`; an optional extra.

A problem is made by the package from a seed and a number. A hash of its text decides whether it is held out, as in
`rlif.tasks.miniature`, so that no problem is trained on and tested. `source` gives a family's parameters,
`{min_terms: 3, max_terms: 6}`, or names a YAML file of them; `limit` is the number of problems.

An answer is right if it is the gold answer, or if the family scores it in full. Partial credit counts as wrong.
Some families pass the answer to Python's or SymPy's `eval`. They get a model's answer only if it is plain arithmetic
(`harmless`). `CORRECTED` families give full score to answers of other problems, or evaluate lists. `REFUSED` families
cannot be graded at all.

Source: arXiv 2505.24760; the prompt is ours.
"""

import ast
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from rlif import progress
from rlif.errors import DataError, MachineError, RecipeError, first_line, nearest
from rlif.files.yaml import parse_yaml, read_yaml
from rlif.tasks.miniature import split_of
from rlif.tasks.task import Mark, Protocol, Task
from rlif.types import Problem

PREFIX = "reasoning_gym/"
TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
CHUNK = 64  # problems of one seed
FULL = 1.0
EVALUATES = re.compile(r"\b(?:eval|exec|parse_expr|sympify|parse_latex)\(|\bS\(")

Entry = Mapping[str, Any]


def _uses_its_numbers(answer: str, entry: Entry) -> bool:
    """Tells whether an expression has exactly the numbers of the problem; puzzle24 accepts any four."""
    return sorted(re.findall(r"\d+", answer)) == sorted(map(str, entry["metadata"]["numbers"]))


# What is right besides the gold answer: True, False, or None to ask the family.
CORRECTED: dict[str, Callable[[str, Entry], bool | None]] = {
    "game_of_life_halting": lambda answer, entry: False,  # takes any text for True
    "binary_matrix": lambda answer, entry: False,  # only evaluates lists, for a tenth of the score
    "spiral_matrix": lambda answer, entry: False,
    "string_insertion": lambda answer, entry: False,
    "n_queens": lambda answer, entry: answer in entry["metadata"]["valid_answers"],
    "puzzle24": lambda answer, entry: None if _uses_its_numbers(answer, entry) else False,
}
REFUSED = {
    "boxnet": "gives no answer to compare with or to check its scores by",
    "rush_hour": "gives no answer to compare with or to check its scores by",
    "propositional_logic": "gives full score to all that follows, a repeated premise among it",
    "composite": "is made of other families",
    "codeio": "runs programs of its data in this process, without a sandbox",
}
# Where the answers of families without a gold answer are, of which many are right.
EXAMPLES: dict[str, Callable[[Entry], str]] = {
    "graph_color": lambda entry: json.dumps({str(k): v for k, v in entry["metadata"]["possible_answer"].items()}),
    "rubiks_cube": lambda entry: entry["metadata"]["example_correct_answer"],
}
OWN_TEXT = ("number_sorting",)  # what it evaluates is the gold answer


def last_answer_tag(text: str) -> str | None:
    """Returns what stands between the last pair of <answer> and </answer>; None without one.

    Example:
        >>> last_answer_tag("So <answer>3</answer>, no: <answer> 4 </answer>.")
        '4'
    """
    found = TAGS.findall(text)
    return found[-1].strip() or None if found else None


def same_text(answer: str, gold: str) -> bool:
    """Compares two answers, without space around them."""
    return answer.strip() == gold.strip()


class ReasoningGym(Task):
    """One family. Without a limit there are 2,048 problems for training and 256 held out, or as many as differ."""

    protocols = {
        "default": Protocol(
            prompt="answer-tags",
            extract=last_answer_tag,
            equal=same_text,
            source="reasoning-gym, arXiv 2505.24760; prompt and exact scores are ours",
        )
    }
    sizes: ClassVar[dict[str, int]] = {"train": 2048, "test": 256}
    family: ClassVar[str] = ""
    reads_data = True

    def load(self, split: str, *, source: str | None = None, limit: int | None = None, seed: int = 0) -> list[Problem]:
        if split not in self.splits:
            raise RecipeError(f"task {self.alias} has the splits train and test, not {split!r}.")
        parameters, wanted = _parameters(self.family, source), limit or self.sizes[split]
        problems: dict[str, Problem] = {}
        with progress.task(f"making problems of {self.family}", wanted) as advance:
            for number in range(16 * wanted // CHUNK + 4):
                digest = hashlib.sha256(f"{self.family}/{seed}/{number}".encode()).digest()
                where = (self.family, json.dumps(parameters), int.from_bytes(digest[:4]) // 2)
                for i in range(CHUNK):
                    if len(problems) == wanted:
                        return list(problems.values())
                    problem = self._problem(where, i)
                    if problem.text not in problems and split_of(problem.text) == split:
                        problems[problem.text] = problem
                        advance()
        if not problems:
            raise DataError(f"task {self.alias} makes no problem of the split {split}; give it other parameters.")
        return list(problems.values())

    def _problem(self, where: tuple[str, str, int], i: int) -> Problem:
        entry = _entry(*where, i)
        text, gold = entry["question"], EXAMPLES.get(self.family, lambda entry: entry["answer"])(entry)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        data = {"parameters": where[1], "seed": where[2], "number": i}
        return Problem(
            f"{self.name}/{digest}", text, gold if isinstance(gold, str) and gold.strip() else None, data=data
        )

    def mark(
        self, problems: Sequence[Problem], completions: Sequence[str], *, unsafe_local: bool = False
    ) -> list[Mark]:
        marks = []
        for problem, completion in zip(problems, completions, strict=True):
            answer = self.answer(problem, completion)
            right = None if problem.gold is None else answer is not None and self._is_right(problem, answer)
            marks.append(Mark(answer, right))
        return marks

    def _is_right(self, problem: Problem, answer: str) -> bool:
        if same_text(answer, problem.gold or ""):
            return True
        data = problem.data
        where = (self.family, data["parameters"], data["seed"])
        return is_right(_dataset(*where), self.family, answer, _entry(*where, data["number"]))

    def gold_completion(self, problem: Problem) -> str | None:
        return None if problem.gold is None else f"<answer>{problem.gold}</answer>"


def find_family(name: str) -> Task:
    """Returns the task of a family, named as `reasoning_gym/chain_sum`."""
    family = name.removeprefix(PREFIX)
    known = families()
    if family not in known:
        raise RecipeError(f"reasoning-gym has no family {family!r}; {nearest(family, known)}")
    if family in REFUSED:
        raise RecipeError(f"the family {family} of reasoning-gym {REFUSED[family]}; choose another.")
    about = {"name": f"reasoning_gym-{family}", "alias": f"{PREFIX}{family}", "family": family}
    return type("ReasoningGym", (ReasoningGym,), about)()


def families() -> list[str]:
    """Lists the families of the installed package.

    Raises:
        MachineError: it is not installed.
    """
    try:
        from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MachineError("tasks of reasoning-gym need it: pip install 'rlif[reasoning-gym]'.") from error
    return sorted(DATASETS)


def is_right(dataset: Any, family: str, answer: str, entry: Entry) -> bool:
    """Tells whether an answer that is not the gold one gets the full score."""
    if (found := CORRECTED.get(family, lambda *_: None)(answer, entry)) is not None:
        return found
    if evaluates(dataset, family) and not harmless(answer):
        return False
    try:
        return dataset.score_answer(answer, entry) >= FULL
    except Exception:  # scorers raise on text of another form, which is wrong
        return False


def evaluates(dataset: Any, family: str) -> bool:
    """Tells whether a family's class hands the answer to an interpreter, which could run it."""
    return family not in OWN_TEXT and EVALUATES.search(inspect.getsource(type(dataset))) is not None


ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.Name, ast.Call, ast.Load, ast.Add, ast.Sub, ast.Mult,
    ast.Div, ast.Pow, ast.USub, ast.UAdd,
)  # fmt: skip
FUNCTIONS = {"exp", "log", "ln", "sin", "cos", "tan", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh", "Abs"}
LARGEST = 100  # exponent


def harmless(text: str) -> bool:
    """Tells whether text is plain arithmetic, which an interpreter can be given.

    It has only numbers, single letters and functions of mathematics, and neither powers of powers nor large exponents.

    Example:
        >>> harmless("(7 + 3)*2 + 4"), harmless("exp(x)**2/2 + C"), harmless("__import__('os')"), harmless("9**9**9")
        (True, True, False, False)
    """
    if len(text) > 1000 or "\n" in text.strip():
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, ARITHMETIC):
            return False
        if isinstance(node, ast.Constant):
            value = node.value
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
                return False
        if isinstance(node, ast.Name) and not (len(node.id) == 1 or node.id in FUNCTIONS):
            return False
        if isinstance(node, ast.Call) and (
            not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords or len(node.args) != 1
        ):
            return False
        if not _small_power(node):
            return False
    return True


def _small_power(node: ast.AST) -> bool:
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Pow):
        return True
    inside = [each for part in (node.left, node.right) for each in ast.walk(part)]
    numbers = [each.value for each in ast.walk(node.right) if isinstance(each, ast.Constant)]
    return not any(isinstance(each, ast.Pow) for each in inside) and all(
        isinstance(number, int | float) and abs(number) <= LARGEST for number in numbers
    )


def parameters_of(source: str | None, alias: str) -> dict[str, Any]:
    """Reads the parameters that the `source` of a task gives, as text or in a YAML file."""
    if source is None:
        return {}
    found = read_yaml(Path(source)) if source.endswith((".yaml", ".yml")) else parse_yaml(source, f"source {source!r}")
    if not isinstance(found, dict):
        raise RecipeError(f"the source of {alias} is {source!r}; expected parameters, as {{NAME: VALUE}}.")
    return {str(name): found[name] for name in sorted(found, key=str)}


def _parameters(family: str, source: str | None) -> dict[str, Any]:
    """Reads the parameters of a family, and refuses names that it does not have."""
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    found = parameters_of(source, f"{PREFIX}{family}")
    known = {*inspect.signature(DATASETS[family][1]).parameters} - {"seed", "size"}
    for name in found:
        if name not in known:
            raise RecipeError(f"{PREFIX}{family} has no parameter {name!r}; {nearest(name, known)}")
    return found


@lru_cache(maxsize=64)
def _dataset(family: str, parameters: str, seed: int) -> Any:
    from reasoning_gym.factory import create_dataset  # pyright: ignore[reportMissingImports]

    try:
        return create_dataset(family, seed=seed, size=CHUNK, **json.loads(parameters))
    except (AssertionError, ValueError, TypeError) as error:
        raise RecipeError(f"reasoning-gym refuses the parameters of {family}: {first_line(error)}.") from error


@lru_cache(maxsize=8192)
def _entry(family: str, parameters: str, seed: int, number: int) -> Entry:
    return _dataset(family, parameters, seed)[number]
