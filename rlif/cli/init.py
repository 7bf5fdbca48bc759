"""`rlif init`: parsing, writing and printing only."""

import keyword
import sys
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from rlif.errors import RecipeError
from rlif.files.atomic import replace_file, writing

TRAIN = "rlif train demo name={name} evaluate={{}} training.max_steps=5 "
# The command that is shown next, by kind: {file} is the file and what it defines,
# `my_signal.py:my_signal`, {name} the name that was given.
NEXT = {
    "group-signal": TRAIN + "reward={file}",
    "task": "rlif eval tiny-reasoner --tasks {file} --limit 16",
    "signal": TRAIN + "reward={file}",
    "grader": TRAIN + "'reward={{self_certainty: 1, {file}: 0.1}}'",
    "rule": "rlif select --model tiny-reasoner --task clock --limit 8 --rule {file}",
    "prompt": "rlif eval tiny-reasoner --tasks clock --limit 16 --prompt {file}",
}
FOLDERS = {"task": "tasks"}  # whose classes are found by name


def init(
    name: Annotated[str, typer.Argument(help="What to write: my-task, my-signal, short-prompt, ...")],
    folder: Annotated[Path | None, typer.Option(help="The folder; by default this one, and tasks/ for a task.")] = None,
) -> None:
    """Write a file of your own, with its test.

    The end of NAME tells the kind: task, signal, group-signal, grader, rule or prompt. Example: `rlif init my-task`.
    """
    stem = name.replace("-", "_")
    kind = next((kind for kind in NEXT if f"_{stem}".endswith(f"_{kind.replace('-', '_')}")), None)
    if kind is None:
        raise RecipeError(f"the name {name!r} must end with what to write: {', '.join(NEXT)}; for example my-signal.")
    if not stem.isidentifier() or not stem.isascii() or keyword.iskeyword(stem) or stem.strip("_") == kind:
        raise RecipeError(f"{name!r} is not a name for code; use letters, digits and -, for example my-{kind}.")
    place = folder if folder is not None else Path(FOLDERS.get(kind, "."))
    title = "".join(part.title() for part in stem.split("_"))
    starters = resources.files("rlif") / "cli" / "starters"
    files = {place / f"{stem}.py": kind, place / f"test_{stem}.py": f"{kind}_test"}
    for path in files:
        if path.exists() or path.is_symlink():
            raise RecipeError(f"{path} exists already; give another name, or another --folder.")
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for path, starter in files.items():
            text = (starters / f"{starter.replace('-', '_')}.txt").read_text(encoding="utf-8")
            replace_file(path, Template(text).safe_substitute(name=stem, Name=title))
    code, test = files
    print(f"written: {code} and {test}", file=sys.stderr)
    print(f"pytest {test}")
    print(NEXT[kind].format(name=name, file=f"{code}:{title if kind == 'task' else stem}"))
