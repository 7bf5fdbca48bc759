"""Draws samples of many problems into a folder, and resumes where a killed process stopped.

    samples.jsonl    a row per completion, N for each problem, appended a batch at a time
    early.jsonl      the same with early stopping, if it is on
    sampling.json    everything that decides these rows; written first, compared before the folder is resumed

The seed of a batch follows from its number. So a folder that was resumed holds the same bytes as one that was not.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.errors import DataError
from rlif.files.atomic import read_object, replace_file, writing
from rlif.files.jsonl import JsonLog, different, plain
from rlif.files.lock import locked
from rlif.files.own import code_hashes
from rlif.selection.samples import GroupSampler, Row, check_sample
from rlif.selection.scorer import Scorer
from rlif.tasks import Task
from rlif.tasks.prompts import Prompt, find_prompt
from rlif.types import Problem


@dataclass(frozen=True)
class Drawing:
    """Draws a group of rows for each problem."""

    sampler: GroupSampler
    problems: Sequence[Problem]
    warm_up: int | None = None  # whole samples before early stopping starts; None to draw without it
    percentile: float = 10  # the threshold of early stopping, as a percentile of the warm-up's lowest windows

    def draw(
        self, out: Path | None, settings: Mapping[str, Any], instead: Mapping[str, Any] | None = None
    ) -> tuple[list[Row], list[Row] | None]:
        """Draws the rows that the folder, if there is one, lacks; returns all, and those with early stopping if any.

        Args:
            settings: more of what decides the rows.
            instead: takes the place of what `described` says.
        """
        self.sampler.check(self.problems)
        rows: dict[str, list[Row]] = {"samples": []} | ({} if self.warm_up is None else {"early": []})
        size = max(1, self.sampler.scorer.batch_size // self.sampler.decoding.n)
        with _logs(out, rows) as logs, progress.task("drawing samples", len(self.problems)) as advance:
            done = (
                0
                if out is None
                else self._resume(out, self.described(settings) | dict(instead or {}), logs, rows, size)
            )
            advance.found(min(done * size, len(self.problems)))
            for number, start in list(enumerate(range(0, len(self.problems), size)))[done:]:
                part = self.problems[start : start + size]
                for name, drawn in self._batch(part, number):
                    rows[name] += drawn
                    if name in logs:
                        with writing(logs[name].path):
                            logs[name].append(*drawn)
                advance(len(part))
        return rows["samples"], rows.get("early")

    def described(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Describes everything that decides the rows, as plain data."""
        sampler, scorer = self.sampler, self.sampler.scorer
        weights = {file.name: file.stat().st_size for file in sorted(Path(scorer.name).glob("*.safetensors"))}
        problems = json.dumps([problem.compared() for problem in self.problems], sort_keys=True, default=str)
        return plain(
            {
                **settings,
                **sampler.decoding_for(0).described(),
                "model": scorer.name,
                "weights": weights,
                "content": scorer.content,
                "chat": scorer.chat.described(),
                "batch_size": scorer.batch_size,
                "window": scorer.window,
                "task": sampler.task.name,
                "problems": {"rows": len(self.problems), "sha256": hashlib.sha256(problems.encode()).hexdigest()},
                "prompt": sampler.prompt and asdict(sampler.prompt),
                "warm_up": self.warm_up,
                "percentile": None if self.warm_up is None else self.percentile,
                **({"signals": code_hashes(scorer.also)} if scorer.also else {}),
            }
        )

    def _batch(self, problems: Sequence[Problem], number: int) -> Iterator[tuple[str, list[Row]]]:
        whole = self.sampler.draw(problems, number)
        yield "samples", whole
        if self.warm_up is not None:
            warm = [row for row in whole if row["sample"] < self.warm_up]
            yield "early", self.sampler.draw_with_stops(problems, warm, number, self.percentile)

    def _resume(
        self, out: Path, settings: dict[str, Any], logs: Mapping[str, JsonLog], rows: dict[str, list[Row]], size: int
    ) -> int:
        """Reads the batches that every file holds whole, cuts off the rest, and counts these batches."""
        _check_settings(out, settings)
        order = [(problem.id, i) for problem in self.problems for i in range(self.sampler.decoding.n)]
        found = {
            name: [(number, check_sample(row, number, log.path)) for number, row in log.rows()]
            for name, log in logs.items()
        }
        for name, lines in found.items():
            if [(row.get("id"), row.get("sample")) for _, row in lines] != order[: len(lines)]:
                raise DataError(f"{logs[name].path} holds other rows than were drawn; write to another folder.")
        drawn = min(map(len, found.values()))
        per_batch = size * self.sampler.decoding.n
        done = -(-drawn // per_batch) if drawn == len(order) else drawn // per_batch
        keep = min(done * per_batch, len(order))
        for name, lines in found.items():
            with writing(logs[name].path):
                logs[name].cut(lines[keep - 1][0] if keep else 0)
            rows[name] += [row for _, row in lines[:keep]]
        return done


@contextmanager
def _logs(out: Path | None, names: Sequence[str] | Mapping[str, Any]) -> Iterator[dict[str, JsonLog]]:
    """Holds the folder, so that no second process writes to it, and opens its files."""
    if out is None:
        yield {}
        return
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        yield {name: JsonLog(out / f"{name}.jsonl", ascii=False) for name in names}


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Writes the settings into a new folder; refuses a folder whose rows were drawn with others."""
    path, samples = out / "sampling.json", out / "samples.jsonl"
    remedy = f"write to another folder, or choose among its samples with --samples {samples}."
    if not samples.exists():
        with writing(path):
            replace_file(path, json.dumps(settings, indent=2) + "\n")
    elif not path.is_file():
        raise DataError(f"{out} has samples, but no sampling.json with their settings; {remedy}")
    elif keys := different({"content": settings["content"]} | read_object(path), settings):  # older files lack it
        raise DataError(f"{out} holds samples drawn with other settings ({keys}); {remedy}")


def rendering(scorer: Scorer | None, task: Task | None, prompt: Prompt | None) -> dict[str, Any]:
    """Describes a model and how prompts were rendered for it; by the task's own prompt if `prompt` is None."""
    if prompt is None and task is not None:
        prompt = find_prompt(task.protocol.prompt)
    if scorer is None:
        return {"chat": None, "content": None, "prompt": None}
    return plain({"chat": scorer.chat.described(), "content": scorer.content, "prompt": prompt and asdict(prompt)})


def check_selection(out: Path | None, settings: Mapping[str, Any]) -> None:
    """Refuses a folder of samples that another model scored, or the same one with prompts rendered otherwise.

    Raises:
        DataError: names the settings that differ.
    """
    if out is None or not (out / "selection.json").is_file() or settings["model"] is None:
        return
    then = read_object(out / "selection.json").get("settings")
    then = then if isinstance(then, dict) else {}
    now = {name: settings[name] for name in ("model", "content", "chat", "prompt") if name in then}
    if keys := different({name: then[name] for name in now}, now):
        raise DataError(f"{out} holds samples scored with other settings ({keys}); write to another folder.")


def is_complete(out: Path, rows: Sequence[Row]) -> bool:
    """Tells whether a folder holds these samples; False where a kill left the first of them, or no selection.

    Raises:
        DataError: the folder holds other samples.
    """
    path = out / "samples.jsonl"
    found, given = (
        [(str(row.get("id")), row.get("completion")) for row in each]
        for each in ([row for _, row in JsonLog(path).rows()], rows)
    )
    if found != given[: len(found)] or (len(found) < len(given) and (out / "sampling.json").exists()):
        raise DataError(f"{path} holds other samples than were given; write to another folder.")
    made = any((out / name).exists() for name in ("selection.json", "sampling.json"))
    return made and len(found) == len(given)
