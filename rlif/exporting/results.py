"""Writes scores as the results JSON of lm-evaluation-harness, so that its tools and others' tables read them.

Layout: https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/result_schema.py. For each task

    results      "accuracy,FILTER" and "accuracy_stderr,FILTER"; the filter is how the protocol extracts the answer
    n-samples    the number of problems that were put; how many the split has is not known, so both numbers are equal
    configs      our protocol, prompt and decoding; `metadata` has n and the 95 % interval of each score
    versions     that of the protocol

With several samples per problem there are `maj@n`, `self_certainty@n` and `pass@k` too. The model type is `rlif`,
because the grading is ours: compare two scores of a task only where protocol and grading are the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scipy import stats

from rlif.files.atomic import finite, replace_file, writing
from rlif.intervals import Interval
from rlif.version import __version__


def standard_error(share: Interval) -> float | None:
    """Computes the standard error of a share; None where it is unknown.

    Over independent items it is that of lm-evaluation-harness, with n - 1. Over clusters it follows from Student's
    interval. A bound may be cut off at 0 or 1, so the longer side is read.
    """
    if share.clusters is None:
        return math.sqrt(share.mean * (1 - share.mean) / (share.n - 1)) if share.n > 1 else None
    if share.low is None or share.high is None or share.mean in (0, 1):
        return None
    return max(share.mean - share.low, share.high - share.mean) / float(stats.t.ppf(0.975, share.clusters - 1))


def lm_eval_results(name: str, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Makes the results of one model.

    Args:
        name: of the model.
        scores: by task, in the layout of `rlif.evaluation.scores.Scores.as_dict`.
    """
    found: dict[str, Any] = {
        key: {} for key in ("results", "group_subtasks", "configs", "versions", "higher_is_better", "n-samples")
    }
    for task, entry in scores.items():
        protocol, problems = entry.get("protocol", {}), entry.get("problems")
        shares = dict(_shares(entry))
        number = problems or (shares["accuracy"].clusters or shares["accuracy"].n)
        kept = f",{protocol.get('extract', 'none')}"
        values: dict[str, Any] = {"name": task, "alias": task, "sample_len": number}
        for metric, share in shares.items():
            error = standard_error(share)
            values[metric + kept] = share.mean
            values[f"{metric}_stderr{kept}"] = "N/A" if error is None else error
        found["results"][task] = values
        found["group_subtasks"][task] = []
        found["configs"][task] = {
            "task": task,
            "generation_kwargs": entry.get("decoding", {}),
            "metadata": {
                **{key: entry[key] for key in ("step", "protocol", "prompt", "chat") if key in entry},
                "shares": {metric: share.as_dict() for metric, share in shares.items()},
            },
        }
        found["versions"][task] = protocol.get("version")
        found["higher_is_better"][task] = dict.fromkeys(shares, True)
        found["n-samples"][task] = {"original": number, "effective": number}
    return found | {
        "config": {"model": "rlif", "model_args": {"pretrained": name}},
        "model_source": "rlif",
        "model_name": name,
        "model_name_sanitized": name.replace("/", "__"),
        "rlif_version": __version__,
    }


def _shares(entry: Mapping[str, Any]) -> Iterator[tuple[str, Interval]]:
    """Yields each share of a task's scores that is known."""
    named = {"accuracy": entry.get("accuracy")}
    named |= {name: value for name, value in entry.items() if "@" in name and name != "pass@k"}
    named |= {f"pass@{k}": value for k, value in entry.get("pass@k", {}).items()}
    for name, value in named.items():
        share = Interval.read(value)
        if share is not None:
            yield name, share


def write_lm_eval(path: Path, name: str, scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the results of one model to a file, whole or not at all."""
    graded = {task: entry for task, entry in scores.items() if dict(_shares(entry)).get("accuracy")}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(finite(lm_eval_results(name, graded)), indent=2, ensure_ascii=False) + "\n")
