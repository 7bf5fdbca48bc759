"""Finds the user's own code, which a recipe or an option may name in place of something in the package.

    my_module:Name            a dotted path, on Python's path, in the current folder or in that of the recipe
    tasks/riddles.py:Name     a file, from the folder of the recipe or the current one

`load` imports it, for rewards, signals, graders, tasks, prompts and rules. Importing runs the code, so name only code
that you trust. `check_from_run` refuses code that came with a run folder.
"""

import ast
import functools
import hashlib
import importlib
import importlib.util
import math
import numbers
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rlif.errors import RecipeError, RewardError, RlifError, first_line, nearest

NAMED = re.compile(r"(?:.+\.py|[^\W\d][\w.]*):[^\W\d][\w.]*")
PACKAGE = Path(__file__).parents[1]
LIBRARIES = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
MISSING = object()
Value = TypeVar("Value")
# Modules of the former flat layout that have other names now. The others are found in the folders by their names.
MOVED = {
    "rlif.config": "rlif.config.recipe and rlif.config.loading",
    "rlif.disk": "rlif.files.atomic",
    "rlif.graders.outside": "rlif.graders.external",
    "rlif.grading": "rlif.answers.equality",
    "rlif.guard": "rlif.guard.limits and rlif.guard.monitor",
    "rlif.judge": "rlif.judging.judge",
    "rlif.judged": "rlif.judging.annotations",
    "rlif.meaning": "rlif.rewards.equivalence",
    "rlif.policy": "rlif.sampling.loading",
    "rlif.rewards": "rlif.rewards.mixing",
    "rlif.rollout": "rlif.sampling.sampler and rlif.tasks.rendering",
    "rlif.run": "rlif.runs.folder",
    "rlif.sandbox": "rlif.sandbox.runner",
    "rlif.scoring": "rlif.scoring.statistics and rlif.scoring.head",
    "rlif.selection": "rlif.selection.rules and rlif.answers.clusters",
    "rlif.signals.group_confidence": "rlif.signals.token_confidence",
    "rlif.tasks.rows": "rlif.files.tables",
    "rlif.vitals": "rlif.guard.health",
    "rlif.weights": "rlif.config.schedule",
    "rlif.yaml_files": "rlif.files.yaml",
}


def is_own(name: str) -> bool:
    """Tells whether a name has the form of code of one's own.

    Example:
        >>> is_own("tasks/riddles.py:Riddles"), is_own("my_module:Riddles"), is_own("gsm8k.lighteval")
        (True, True, False)
    """
    return NAMED.fullmatch(name) is not None or name.endswith(".py")


def load(name: str, what: str) -> Any:
    """Imports what a name stands for.

    Args:
        name: `module:Name`, `file.py:Name` or `module.Name`.
        what: the kind, for the message of an error: "reward", "task".

    Raises:
        RecipeError: there is no such file, module or name in it, or importing it raises; with file and line.
    """
    where, attribute = _parts(name)
    known = list(sys.path)
    try:
        if where.endswith(".py"):
            module = _import_file(_file(name, what))
        else:
            sys.path.append(str(Path.cwd()))
            module = importlib.import_module(where)
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:  # importing runs the user's code, which can raise anything
        if isinstance(error, ImportError) and (moved := where_moved(error.name)):
            raise RecipeError(f"cannot import the {what} {name}: {moved}.") from error
        if isinstance(error, ImportError) and not at(error):
            advice = "go to the folder that its module lies in, or add that to PYTHONPATH"
            raise RecipeError(f"cannot import the {what} {name}: {first_line(error)}; {advice}.") from error
        text = f"{type(error).__name__}: {first_line(error).rstrip('.')}{at(error)}"
        raise RecipeError(f"importing the {what} {name} raises {text}.") from error
    finally:
        sys.path[:] = known
    found = getattr(module, attribute, MISSING)
    if found is MISSING:
        if where in MOVED:
            raise RecipeError(f"cannot import the {what} {name}: {where_moved(where)}.")
        raise RecipeError(
            f"the module {where} has no {attribute!r}, which the {what} {name} names{_near(module, attribute)}"
        )
    return found


def _parts(name: str) -> tuple[str, str]:
    where, colon, attribute = name.rpartition(":")
    if colon:
        return where, attribute
    if name.endswith(".py"):
        return name, ""
    where, _, attribute = name.rpartition(".")
    return where, attribute


def _near(module: ModuleType, attribute: str) -> str:
    """Suggests names that a module defines itself."""
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return f"; {nearest(attribute, own)}" if own else "."


def _file(name: str, what: str) -> Path:
    where, attribute = _parts(name)
    path = Path(where).expanduser().absolute()
    if not path.is_file():
        raise RecipeError(
            f"there is no file {where}, which the {what} {name} names; give its path from the folder of the recipe, or"
            " from the current one."
        )
    if not attribute:
        names = ", ".join(sorted(_defined(path))) or "nothing"
        raise RecipeError(f"{where} is a file; name what to use of it as {where}:NAME. It defines {names}.")
    return path.resolve()


def _import_file(path: Path) -> ModuleType:
    """Imports a file by its path, once; its neighbours can be imported by it."""
    name = f"rlif_own_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a file that ends with .py has both"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def absolute_name(name: str, folder: Path) -> str:
    """Names code of one's own by the absolute path of its file; a module that Python finds stays as it is.

    Args:
        folder: that of the recipe. Files are looked for in it first, and then in the current folder; modules after
            the current folder and Python's path.
    """
    where, attribute = _parts(name)
    if where.endswith(".py"):
        places = [base / Path(where).expanduser() for base in (folder, Path.cwd())]
        return next((f"{path.resolve()}:{attribute}" for path in places if path.is_file()), name)
    path = folder / f"{where.replace('.', '/')}.py"
    return f"{path.resolve()}:{attribute}" if path.is_file() and not _importable(where) else name


def _importable(module: str) -> bool:
    """Tells whether Python's path or the current folder has a module; runs no code."""
    top = module.partition(".")[0]
    here = Path.cwd() / top
    return here.is_dir() or here.with_suffix(".py").is_file() or importlib.util.find_spec(top) is not None


def found_in(folder: Path, name: str) -> str | None:
    """Finds the class of that name in the files of a folder, without running them; None if there is none.

    Raises:
        RecipeError: two files define it.
    """
    files = [path for path in sorted(folder.glob("*.py")) if name in _defined(path)]
    if len(files) > 1:
        raise RecipeError(f"both {files[0]} and {files[1]} define {name}; name one of them as FILE:{name}.")
    return f"{files[0].resolve()}:{name}" if files else None


def classes_in(folder: Path) -> list[str]:
    """Lists the classes of the files of a folder, without running them; those of tests are left out."""
    files = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("test_")]
    return [name for path in files for name in sorted(_defined(path, functions=False))]


def _defined(path: Path, *, functions: bool = True) -> set[str]:
    """Names the public classes of a file, and its functions; none where it cannot be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) or (functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        if not node.name.startswith("_")
    }


def code_hashes(names: Iterable[str]) -> dict[str, str]:
    """Hashes the file that each name stands for, {name: sha256}; what has none, or is not imported yet, is left out."""
    hashes = {}
    for name in names:
        where, _ = _parts(name)
        file = where if where.endswith(".py") else getattr(sys.modules.get(where), "__file__", None)
        if file is not None and (path := Path(file).expanduser()).is_file():
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def check_from_run(name: str, run: Path) -> None:
    """Refuses code that a run folder names, if it lies in that folder, or outside the current one and Python's path.

    Raises:
        RecipeError: says where the code lies, and what to do.
    """
    where, _ = _parts(name)
    places = [Path(entry or ".").resolve() for entry in [*sys.path, ""]]
    if where.endswith(".py"):
        path = Path(where).expanduser().resolve()
        if not any(path.is_relative_to(place) for place in places):
            raise RecipeError(
                f"the run folder {run} names code outside of the current folder, {path}; go to {path.parent} and give"
                " the command again, if you trust that code."
            )
    else:
        inside = [place / where.replace(".", "/") for place in places]
        path = next((p for p in inside if p.is_dir() or p.with_suffix(".py").is_file()), Path("/"))
    if path.resolve().is_relative_to(run.resolve()):
        raise RecipeError(
            f"the run folder {run} names code that lies in itself ({name}), which is not run; train anew with a copy."
        )


def at(error: BaseException) -> str:
    """Returns " at file, line n" for the last line of a traceback in the user's own files; "" without one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.is_relative_to(folder) for folder in (PACKAGE, *LIBRARIES)):
            return f" at {path}, line {frame.lineno}"
    return ""


@contextmanager
def calling(what: str, kind: type[RlifError] = RewardError) -> Iterator[None]:
    """Turns what the user's code raises into an error of one sentence, with file and line.

    Raises:
        RlifError: of that `kind`. A reward's sentence lacks the line, which its time limit adds.
    """
    try:
        yield
    except RlifError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        text = f"the {what} raised {type(error).__name__}: {first_line(error)}"
        raise kind(text if kind is RewardError else f"{text.rstrip('.')}{at(error)}.") from error


def checked(what: str, values: Any, count: int) -> list[float | None]:
    """Checks what a function of one's own returned for completions, and converts it to numbers or None.

    Args:
        what: kind and name, for the message of an error.
    """
    if hasattr(values, "tolist"):  # a tensor, an array
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RewardError(f"the {what} returned a {type(values).__name__}; it must return a list of numbers")
    if len(values) != count:
        raise RewardError(f"the {what} returned {len(values)} rewards for {count} completions; it must return one each")
    values = [value.item() if hasattr(value, "item") else value for value in values]
    for value in values:
        if value is not None and not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise RewardError(
                f"the {what} returned {value!r}; rewards are finite numbers, or None for a completion that cannot be"
                " scored"
            )
    return [None if value is None else float(value) for value in values]


def reading(what: str, name: str, function: Callable[[Any], Value]) -> Callable[[Any], Value]:
    """Wraps a function that ships, which a plain trainer of TRL cannot call: that gives `completions` by keyword.

    Args:
        what: what it reads, for the message of an error.
    """

    @functools.wraps(function)
    def call(*given: Any, **others: Any) -> Value:
        if "completions" in others:
            raise RecipeError(
                f"{name} reads a {what}, not completions; import the trainer from rlif.trl and name {name!r} in"
                " reward_funcs."
            )
        return function(*given, **others)

    return call


def with_checks(what: str, function: Callable[[Any], Any], count: Callable[[Any], int]) -> Callable[[Any], Any]:
    """Wraps a function of one's own; checks what it returns, and turns what it raises into one sentence.

    Args:
        count: how many values its argument asks for.
    """

    def call(given: Any) -> list[float | None]:
        with calling(what):
            values = function(given)
        return checked(what, values, count(given))

    return call


def where_moved(module: str | None) -> str:
    """Says where a module of the flat layout is now; empty for modules of others, and for those that are there.

    Example:
        >>> where_moved("rlif.extraction")
        'rlif.extraction is now rlif.answers.extraction'
    """
    if module in MOVED:
        return f"{module} is now {MOVED[module]}"
    if module is None or not module.startswith("rlif."):
        return ""
    *folders, name = module.split(".")
    files = [path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob(f"{name}.py")]
    if Path(*folders, name) in files or PACKAGE.parent.joinpath(*folders, name).is_dir():
        return ""
    if len(files) == 1:
        return f"{module} is now {'.'.join(files[0].parts)}"
    return f"rlif has no module {module}; its modules are in folders now, see docs/architecture.md"
