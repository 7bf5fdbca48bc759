"""Selects the completions that a page shows, each token with its self-certainty.

A long run logs more than a browser can open. So a page holds whole groups of STEPS steps, first and last included,
and states what it left out. Only the files of these steps are read. Completions reach the page as JSON and the screen
as text, never as markup.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlif.files.atomic import is_number
from rlif.files.jsonl import Row
from rlif.reporting.analysis import spread
from rlif.reporting.verdict import ReportedRun, label

STEPS = 24  # of all runs together, but at least 4 of each
RUNS = 16
PER_STEP = 16  # completions
ROWS_READ = 128  # of each step
LONGEST = 6_000  # characters of a prompt or completion


def completions_data(runs: Sequence[ReportedRun]) -> dict[str, Any]:
    """Returns the data of the page: runs, their steps, the problems of each and their completions."""
    each = max(4, STEPS // max(1, len(runs)))
    common = set.intersection(*(set(run.history.completions) for run in runs)) if runs else set()
    return {"runs": [_run(run, each, sorted(common)) for run in runs[:RUNS]]}


def _run(run: ReportedRun, most: int, common: Sequence[int]) -> dict[str, Any]:
    """Selects the steps of a run, of those that all runs have, so that they can be compared."""
    files = run.history.completions
    steps = set(spread(common or list(files), most))
    steps |= set(list(files)[:1] + list(files)[-1:])
    if files and (fallen := run.collapse):
        steps.add(min(files, key=lambda step: abs(step - fallen.step)))
    found = [
        {"step": step, "problems": problems}
        for step in sorted(steps)
        if (problems := _problems(run.history.read_completions(step, ROWS_READ)))
    ]
    shown = [completion for entry in found for problem in entry["problems"] for completion in problem["completions"]]
    shades = [nats for completion in shown for _, nats in completion.get("pieces", []) if nats is not None]
    low, high = np.percentile(shades, [5, 95]).round(2).tolist() if shades else (None, None)
    note = "No completions were kept."
    if files:
        size = sum(path.stat().st_size for path in files.values() if path.exists())
        kept = f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"
        note = (
            f"{len(shown):,} completions of {len(found):,} steps; the run folder has kept {len(files):,} steps, {kept}."
        )
    return {"name": run.name, "steps": found, "low": low, "high": high, "note": note}


def _problems(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Selects the first whole groups of a rollout, up to PER_STEP completions."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if isinstance(row.get("completion"), str):
            groups.setdefault(json.dumps(row.get("prompt"), sort_keys=True), []).append(row)
    found, taken = [], 0
    for group in groups.values():
        if found and taken + len(group) > PER_STEP:
            break
        group = group[:PER_STEP]
        taken += len(group)
        name, prompt = group[0].get("problem"), group[0].get("prompt")
        turns = prompt if isinstance(prompt, list) else [{"role": "", "content": prompt}]
        messages = [
            {"role": label(turn.get("role") or ""), "text": _cut(turn.get("content"))}
            for turn in turns
            if isinstance(turn, dict)
        ]
        known = label(name) if isinstance(name, str) else ""
        found.append({"id": known, "prompt": messages, "completions": [_completion(row) for row in group]})
    return found


def _completion(row: Row) -> dict[str, Any]:
    right = row.get("right")
    shown = {
        "text": _cut(row["completion"]),
        "right": right if isinstance(right, bool) else None,
        "truncated": row.get("truncated") is True,
        "answer": _short(row.get("answer")),
        "gold": _short(row.get("gold")),  # folders of older versions lack it
        "tokens": len(row["completion_ids"]) if isinstance(row.get("completion_ids"), list) else None,
        "cut": len(row["completion"]) > LONGEST,
        "reward": _number(row.get("reward")),
        "advantage": _number(row.get("advantage")),
    }
    pieces = _pieces(row)
    return shown | ({"pieces": pieces} if pieces else {})


def _pieces(row: Row) -> list[tuple[str, float | None]]:
    """Pairs the texts of tokens with their self-certainty; tokens that share a character share a piece and a mean.

    It is empty where the row does not map characters to tokens, as in folders of older versions.
    """
    chars, nats, text = row.get("token_chars"), row.get("token_self_certainty"), row["completion"]
    if not isinstance(chars, list) or not isinstance(nats, list) or len(chars) != len(nats):
        return []
    if not all(isinstance(n, int) and n >= 0 for n in chars) or sum(chars) != len(text):
        return []
    pieces: list[tuple[str, float | None]] = []
    start, pending = 0, []
    for length, value in zip(chars, nats, strict=True):
        pending += [number] if (number := _number(value)) is not None else []
        if length:
            pieces.append((text[start : start + length], _mean(pending)))
            start, pending = start + length, []
        if start >= LONGEST:
            return pieces
    return [*pieces, ("", _mean(pending))] if pending else pieces


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 2) if values else None


def _number(value: Any) -> float | None:
    return round(float(value), 4) if is_number(value) else None


def _short(text: Any) -> str | None:
    return None if text is None else _cut(text)[:200]


def _cut(text: Any) -> str:
    return (text if isinstance(text, str) else "" if text is None else json.dumps(text))[:LONGEST]
