"""Writes the report: one HTML page about one run or several, from their folders alone.

The page is a single file and needs no network: style, script and figures are inside. Whatever comes from
a model or a data set is text to it. The template escapes it, completions travel as JSON in which `<` cannot occur and
are put on screen by `textContent`, and a content security policy lets no script run but the page's own, by its hash.

How much of a run it shows is bounded (see `rlif.reporting.figures`, `rlif.reporting.sections`,
`rlif.reporting.completions`), and it says so.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rlif.errors import MachineError, RecipeError
from rlif.files.atomic import is_number
from rlif.reporting import analysis
from rlif.reporting.verdict import collapse, trained_task, verdict
from rlif.runs.history import History, read_history
from rlif.version import __version__

ABOUT = ("task", "algorithm", "reward", "annotator", "normalisation", "model", "seed", "dtype", "problems_per_update")
TRAINING = ("learning_rate", "beta", "num_generations", "temperature", "max_completion_length", "max_steps")


def check_installed() -> None:
    """Refuses to go on without matplotlib and jinja2.

    Raises:
        MachineError: matplotlib or jinja2 cannot be imported.
    """
    if not all(importlib.util.find_spec(package) for package in ("matplotlib", "jinja2")):
        raise MachineError("a report needs matplotlib and jinja2: pip install 'rlif[report]'.")


def report(
    runs: Sequence[str | Path], output: str | Path | None = None, figures: str | Path | None = None
) -> tuple[Path, list[str]]:
    """Writes a report of one run, or of several laid over each other.

    Args:
        runs: run folders.
        output: the page; `report.html` inside the run folder if left out, or here for several runs.
        figures: a folder for the same figures as files, .svg and .png.

    Returns:
        the page, and a verdict of one sentence per run.

    Raises:
        RecipeError: no run is given.
        DataError: a folder holds no run.
        MachineError: nowhere to write, or matplotlib and jinja2 are missing.

    Example:
        >>> rlif.report(["runs/demo"])[1]
        ['Learned: accuracy on clock rose from 10.2% to 92.6%, self-certainty went from 6.00 to 6.27 nats.']
    """
    check_installed()
    from rlif.reporting.figures import save
    from rlif.reporting.sections import sections

    histories = [read_history(path) for path in runs]
    if not histories:
        raise RecipeError("give at least one run folder.")
    place = Path(output or (histories[0].run.path / "report.html" if len(histories) == 1 else "report.html"))
    built = sections(histories)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(page(histories, built).encode("utf-8", "replace"))
        if figures is not None:
            Path(figures).mkdir(parents=True, exist_ok=True)
            for section in built:
                for figure in section.figures:
                    save(figure, Path(figures))
    except OSError as error:
        raise MachineError(f"cannot write {error.filename or place}: {error.strerror}.") from error
    return place, [verdict(history) for history in histories]


def page(histories: Sequence[History], built: Sequence[Any]) -> str:
    """Renders the whole page as text."""
    import jinja2
    from markupsafe import Markup

    from rlif.reporting.completions import completions_data
    from rlif.reporting.figures import COLOURS, svg
    from rlif.reporting.sections import names_of

    names = names_of(histories)
    script, style = _part("report.js"), _part("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    drawn = [
        {
            "key": section.key,
            "title": section.title,
            "missing": section.missing,
            "figures": [{"svg": Markup(svg(f)), "alt": f.alt, "caption": f.caption} for f in section.figures],
        }
        for section in built
    ]
    return environment.from_string(_part("report.html")).render(
        version=__version__,
        names=names,
        runs=[
            _run(history, name, COLOURS[i % len(COLOURS)])
            for i, (history, name) in enumerate(zip(histories, names, strict=True))
        ],
        sections=drawn,
        early=list(_early(histories, names)),
        separation=list(_separation(histories, names)),
        drifts=list(_drifts(histories)),
        data=Markup(safe_json(completions_data(histories))),
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'",
    )


def safe_json(value: Any) -> str:
    """JSON that no HTML parser can leave: ASCII, without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(name: str) -> str:
    return resources.files("rlif.reporting").joinpath("assets", name).read_text(encoding="utf-8")


def _run(history: History, name: str, colour: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    written = io.StringIO()
    yaml = YAML()
    yaml.width = 100
    yaml.dump(history.recipe, written)
    fallen = collapse(history)
    return {
        "name": name,
        "annotator": str(history.recipe.get("annotator", "online")),
        "colour": colour,
        "verdict": verdict(history),
        "collapse": f"Marked as collapsed from step {fallen.step} on: {fallen.sign}." if fallen else "",
        "facts": list(_facts(history)),
        "recipe": written.getvalue(),
        "notes": history.notes,
    }


def _facts(history: History) -> Iterator[tuple[str, str]]:
    """What was run: recipe, length, hardware, versions."""
    recipe, environment, summary = history.recipe, history.environment, history.summary
    training = recipe.get("training")
    for source, keys in ((recipe, ABOUT), (training if isinstance(training, dict) else {}, TRAINING)):
        for key in keys:
            if source.get(key) is not None:
                yield key.replace("_", " "), str(source[key])
    if summary.get("steps") is not None:
        yield "steps taken", f"{summary['steps']} in {_number(summary.get('seconds'), '.0f')} s"
    if summary.get("path"):
        yield "extra passes", f"{summary.get('extra_passes')} per completion ({summary['path']})"
    if environment:
        gpus = environment.get("gpus")
        hardware = (
            ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else f"{environment.get('cpus')} CPU cores"
        )
        yield "hardware", f"{hardware}, {environment.get('processes', 1)} process(es), {environment.get('system')}"
        packages = environment.get("packages")
        versions = packages.items() if isinstance(packages, dict) else ()
        yield "commit", str(environment.get("commit") or "unknown (installed package)")
        yield (
            "versions",
            ", ".join(
                f"{package} {version}"
                for package, version in (
                    ("rlif", environment.get("rlif")),
                    ("python", environment.get("python")),
                    *versions,
                )
            ),
        )


def _early(histories: Sequence[History], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name, history in zip(names, histories, strict=True):
        for task, evaluations in history.evaluations.items():
            found = analysis.early_learning(evaluations)
            if found:
                role = " (trained on)" if task == trained_task(history) else ""
                yield {"run": name, "task": task + role, "n": found["start"][1].n} | {
                    when: f"{share} (step {step})" for when, (step, share) in found.items()
                }


def _separation(histories: Sequence[History], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    from rlif.reporting.sections import graded_evaluations

    for name, history in zip(names, histories, strict=True):
        for task in history.evaluations:
            for step, certainty, right in graded_evaluations(history, task):
                test, numbers = analysis.separation(certainty, right), analysis.calibration(certainty, right)
                row = {"run": name, "task": task, "step": step, "right": sum(right), "wrong": len(right) - sum(right)}
                yield row | {
                    "u": f"{test.u:,.0f}" if test else "-",
                    "p": f"{test.p:.2g}" if test else "-",
                    "r": f"{test.r:.2f}" if test else "-",
                    "auroc": f"{test.auroc:.3f}" if test else "-",
                    "slope": f"{numbers.slope:+.2f}" if test and numbers else "-",
                }


def _drifts(histories: Sequence[History]) -> Iterator[dict[Any, str]]:
    """First and last steps of each measure, a column per run."""
    from rlif.reporting.sections import MEASURES

    titles = {"completion_length": "Completion length, tokens"} | {name: title for name, (title, _) in MEASURES.items()}
    for name, title in titles.items():
        row: dict[Any, str] = {"measure": title}
        for i, history in enumerate(histories):
            values = history.metrics.get(name)
            if values is not None and not (name == "reward" and "self_certainty" in history.metrics):
                start, end = analysis.drift(values)
                row[i] = f"{_number(start, '.4g')} \u2192 {_number(end, '.4g')}"
        if len(row) > 1:
            yield row


def _number(value: Any, form: str) -> str:
    return format(value, form) if is_number(value) else "-"
