"""Hashes problems and model, because resuming with others makes it a different run.

begun.json in the run folder is written when the run starts and holds

    problems    number and hash of the training problems, after those that are too long were left out
    columns     a hash of all columns of their rows, where a reward of one's own reads them
    held_out    the same for each task that is evaluated, gold answers included
    code        a hash of each file of one's own that the recipe names
    model       of a local model folder: size and hash of each file; of one above 16 MiB the hash of parts of it
    weights     which weights the model's name stood for, where it does not say (`rlif.sampling.sources.weights_of`)

`check` compares it before a resume, all but the code: a reward that raised may be mended, and `changed_code` says so.
The prompts follow from problems, tokenizer and the run folder's own recipe. A hub model is pinned by `revision` in the
recipe, not here. Identical numbers also need the same versions, threads and processes: `differences` lists which of
these changed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.errors import DataError
from rlif.files.hashes import sampled_hash
from rlif.files.jsonl import different
from rlif.runs.checkpoints import file_entry
from rlif.types import Problem

SMALL = 16 * 2**20  # bytes; of larger files parts are compared
COMPARED = ("python", "system", "packages", "threads", "gpus", "processes")


@progress.task("hashing problems and model")
def compute(
    problems: Sequence[Problem], held_out: Mapping[str, Iterable[Problem]], model: str, columns: bool = False
) -> dict[str, Any]:
    """Computes what `begun.json` holds.

    Args:
        columns: whether the columns of the training problems matter.
    """
    return {
        "problems": _rows(problem.compared() for problem in problems),
        **({"columns": _rows(problem.row for problem in problems)} if columns else {}),
        "held_out": {task: _rows(row.compared() for row in rows) for task, rows in held_out.items()},
        "model": _files(Path(model)),
    }


def check(begun: Mapping[str, Any], now: Mapping[str, Any], folder: Path, names: Mapping[str, str]) -> None:
    """Refuses to resume with other problems or another model; `names` says what the user calls these two."""
    remedy = f"put back what {folder} began with, or start a new run."
    for what in ("problems", "columns", "model"):
        found = _as_kept(now.get(what, {}), begun.get(what))
        if what in begun and begun[what] != found:
            raise DataError(f"{names[what]} changed since the run began ({_change(begun[what], found)}); {remedy}")
    for task, rows in begun.get("held_out", {}).items():
        found = now["held_out"].get(task)
        if found != rows:
            raise DataError(f"the held-out {task} changed since the run began ({_change(rows, found)}); {remedy}")


def changed_code(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names the code of one's own whose file has changed since the start."""
    then = begun.get("code")
    return [n for n, found in now.get("code", {}).items() if isinstance(then, dict) and then.get(n, found) != found]


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists versions, threads and processes that changed, as `torch 2.12.0 then, 2.13.0 now`."""
    found = []
    for key in COMPARED:
        then, today = begun.get(key), now.get(key)
        if isinstance(then, dict) and isinstance(today, dict):
            changed = sorted(name for name in then | today if then.get(name) != today.get(name))
            found += [f"{name} {then.get(name)} then, {today.get(name)} now" for name in changed]
        elif key in begun and then != today:
            found.append(f"{key} {then} then, {today} now")
    return found


def _rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    lines = [json.dumps(row, sort_keys=True, default=str) for row in rows]
    return {"rows": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def _files(folder: Path) -> dict[str, Any]:
    paths = sorted(path for path in folder.glob("[!.]*") if path.is_file())
    sizes = {path: path.stat().st_size for path in paths}
    return {
        path.name: file_entry(path) if size <= SMALL else {"bytes": size, "parts": sampled_hash([path])}
        for path, size in sizes.items()
    }


def _as_kept(now: Mapping[str, Any], begun: Any) -> dict[str, Any]:
    """Leaves the hash of parts of a file out where an older version kept none."""
    found = {**now}
    for name, entry in found.items():
        kept = begun.get(name) if isinstance(begun, Mapping) else None
        if isinstance(entry, Mapping) and isinstance(kept, Mapping) and "parts" in entry and "parts" not in kept:
            found[name] = {"bytes": entry["bytes"]}
    return found


def _change(then: Any, now: Any) -> str:
    if not isinstance(then, Mapping) or not isinstance(now, Mapping):
        return "gone"
    if "rows" not in then:
        return different(then, now)
    return "other rows" if then["rows"] == now.get("rows") else f"{then['rows']} rows then, {now.get('rows')} now"
