"""Writes the report: one HTML page about one run or several, from their folders alone.

The page is a single file and needs no network: style, script and numbers are inside. uPlot draws the figures; the page
holds its licence. Text from a model or a data set stays text. The template escapes it; completions travel as JSON
without `<` and reach the screen by `textContent`. A content security policy runs only the page's own script, by its
hash.

The page shows a bounded part of a run, and states how much (see `rlif.reporting.sections` and
`rlif.reporting.completions`).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlif import progress
from rlif.config.rounds import chosen_by
from rlif.errors import MachineError, RecipeError
from rlif.files.atomic import is_number, replace_file
from rlif.reporting import analysis
from rlif.reporting.verdict import ReportedRun, label, reported_runs
from rlif.runs.history import History, read_history
from rlif.sampling.sources import weights_line
from rlif.version import __version__

if TYPE_CHECKING:
    from rlif.reporting.sections import Section

ABOUT = ("task", "algorithm", "reward", "annotator", "normalisation", "model", "seed", "dtype", "problems_per_update")
TRAINING = ("learning_rate", "beta", "num_generations", "temperature", "max_completion_length", "max_steps")


@progress.task("writing the report")
def report(
    runs: Sequence[str | Path] | Path, output: str | Path | None = None, figures: str | Path | None = None
) -> tuple[Path, list[str]]:
    """Writes a report of one run, or of several that share their figures.

    Args:
        output: the page; `report.html` inside the run folder if left out, or here for several runs.
        figures: a folder for the same figures as files, .svg and .png.

    Returns:
        the page, and a verdict of one sentence per run.

    Raises:
        RecipeError: no run is given.
        DataError: a folder is not a run folder.
        MachineError: the page cannot be written, or matplotlib or jinja2 is missing.

    Example:
        >>> rlif.report(["runs/demo"])[1]
        ['Learned: accuracy on clock rose from 6.2% to 96.5%, self-certainty went from 6.16 to 6.28 nats.']
    """
    needed = ["jinja2", *(["matplotlib"] if figures is not None else [])]
    if not all(importlib.util.find_spec(package) for package in needed):
        raise MachineError(f"this report needs {' and '.join(needed)}: pip install 'rlif[report]'.")
    from rlif.reporting.figures import save
    from rlif.reporting.sections import sections

    paths = [runs] if isinstance(runs, str | Path) else runs
    if not isinstance(paths, Iterable) or not all(isinstance(path, str | Path) for path in paths):
        raise RecipeError(f"runs is {runs!r:.40}; give a run folder, or a list of them.")
    histories = [read_history(path) for path in paths]
    if not histories:
        raise RecipeError("give at least one run folder.")
    own = output is None and len(histories) == 1  # inside the run folder
    place = histories[0].run.at("report.html") if own else Path(output or "report.html")
    reported = reported_runs(histories)
    built = sections(reported)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        html = page(reported, built).encode("utf-8", "replace").decode()
        replace_file(place, html) if own else place.write_text(html, encoding="utf-8")
        if figures is not None:
            Path(figures).mkdir(parents=True, exist_ok=True)
            for section in built:
                for figure in section.figures:
                    save(figure, Path(figures))
    except OSError as error:
        raise MachineError(f"cannot write {error.filename or place}: {error.strerror}.") from error
    return place, [run.verdict for run in reported]


def page(runs: Sequence[ReportedRun], sections: Sequence[Section]) -> str:
    """Renders the whole page as text."""
    import jinja2

    from rlif.reporting.completions import completions_data
    from rlif.reporting.figures import COLOURS, POINTS, figures_data

    licence = f"/*\n{_asset('uPlot.LICENSE')}\n*/\n"
    script = licence + "\n".join(map(_asset, ("uPlot.iife.min.js", "charts.js", "report.js")))
    figures = figures_data(itertools.chain(*(section.figures for section in sections)))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_asset("report.html")).render(
        version=__version__,
        names=[run.name for run in runs],
        runs=[_header(run, COLOURS[run.number % len(COLOURS)]) for run in runs],
        sections=sections,
        early=list(_early(runs)),
        separation=list(_separation(runs)),
        drifts=list(_drifts(runs)),
        data=safe_json(completions_data(runs) | figures),
        script=script,
        points=f"{POINTS:,}",
        style=_asset("uPlot.min.css") + _asset("report.css"),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'",
    )


def safe_json(value: Any) -> str:
    """Formats JSON that cannot end its HTML element: ASCII, without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return resources.files("rlif.reporting").joinpath("assets", name).read_text(encoding="utf-8")


def _header(run: ReportedRun, colour: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    written = io.StringIO()
    yaml = YAML()
    yaml.width = 100
    yaml.dump(run.history.recipe, written)
    fallen = run.collapse
    return {
        "name": run.name,
        "annotator": run.annotator,
        "colour": colour,
        "verdict": run.verdict,
        "collapse": f"Marked as collapsed from step {fallen.step} on: {fallen.sign}." if fallen else "",
        "facts": list(_facts(run.history)),
        "recipe": written.getvalue(),
        "notes": run.history.notes,
    }


def _facts(history: History) -> Iterator[tuple[str, str]]:
    """Lists recipe, length, hardware and versions."""
    recipe, environment, summary = history.recipe, history.environment, history.summary
    training = recipe.get("training")
    for source, keys in ((recipe, ABOUT), (training if isinstance(training, dict) else {}, TRAINING)):
        for key in keys:
            if key == "reward" and (chosen := chosen_by(recipe)):
                yield "samples chosen by", chosen
            elif source.get(key) is not None:
                yield key.replace("_", " "), str(source[key])
    if summary.get("steps") is not None:
        yield "steps taken", f"{summary['steps']} in {_number(summary.get('seconds'), '.0f')} s"
    if summary.get("path"):
        yield "extra passes", f"{summary.get('extra_passes')} per completion ({summary['path']})"
    if weights := weights_line(history.run.fingerprint().get("weights")):
        yield "weights", weights
    if environment:
        gpus = environment.get("gpus")
        named = ", ".join(map(str, gpus)) if isinstance(gpus, list) else ""
        hardware = named or f"{environment.get('cpus')} CPU cores"
        yield "hardware", f"{hardware}, {environment.get('processes', 1)} process(es), {environment.get('system')}"
        packages = environment.get("packages")
        versions = {name: environment.get(name) for name in ("rlif", "python")}
        versions |= packages if isinstance(packages, dict) else {}
        yield "commit", str(environment.get("commit") or "unknown (installed package)")
        yield "versions", ", ".join(f"{package} {version}" for package, version in versions.items())


def _early(runs: Sequence[ReportedRun]) -> Iterator[dict[str, Any]]:
    for run in runs:
        for task, shares in run.accuracies.items():
            found = analysis.early_learning(shares)
            role = " (trained on)" if task == run.trained else ""
            yield {"run": run.name, "task": task + role, "n": found["start"][1].n} | {
                when: f"{share} (step {step})" for when, (step, share) in found.items()
            }


def _separation(runs: Sequence[ReportedRun]) -> Iterator[dict[str, Any]]:
    for run in runs:
        for task, evaluations in run.graded.items():
            for evaluation in evaluations:
                test, numbers, right = evaluation.separation, evaluation.calibration, evaluation.right
                row = {"run": run.name, "task": task, "step": evaluation.step}
                row |= {"right": sum(right), "wrong": len(right) - sum(right)}
                if test:
                    row |= {"u": f"{test.u:,.0f}", "p": f"{test.p:.2g}", "r": f"{test.r:.2f}"}
                    row["auroc"] = f"{test.auroc:.3f}"
                if test and numbers:
                    row["slope"] = f"{numbers.slope:+.2f}"
                yield row


def _drifts(runs: Sequence[ReportedRun]) -> Iterator[dict[Any, str]]:
    """Makes a row per measure of its first and last steps, a column per run; the terms of the reward come first."""
    from rlif.reporting.sections import MEASURES, terms

    titles = {name: title for name, (title, *_) in MEASURES.items()}
    titles["completion_length"] = "Completion length, tokens"
    for name in dict.fromkeys((*terms(runs), *titles)):
        row: dict[Any, str] = {"measure": titles.get(name, label(name))}
        for run in runs:
            values = run.history.metrics.get(name)
            if values is not None and not (name == "reward" and run.rewards == ["self_certainty"]):
                start, end = analysis.drift(values)
                row[run.number] = f"{_number(start, '.4g')} \u2192 {_number(end, '.4g')}"
        if len(row) > 1:
            yield row


def _number(value: Any, form: str) -> str:
    return format(value, form) if is_number(value) else "-"
