"""Formats a comparison: cells for the terminal and markdown, plain numbers for CSV and JSON.

The same runs give the same bytes: no time, folder or machine enters.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlif.comparison.comparison import Comparison
from rlif.comparison.outcomes import MethodResult, Outcome, Pair
from rlif.comparison.summary import flatten, rounded
from rlif.comparison.summary_file import format_summaries
from rlif.errors import RecipeError
from rlif.files.atomic import replace_file, writing
from rlif.intervals import Interval

HEADINGS: tuple[str, ...] = (
    "method", "seeds", "n", "start", "best", "end", "change", "tokens", "KL", "nats", "collapsed", "alarm"
)  # fmt: skip
LEGEND = (
    "Accuracies are means over seeds of held-out accuracy on n problems at the first, best and last evaluation; the"
    " best is found by looking at gold answers, which training does only where a recipe says so. Change: end minus"
    " start in points, with Student's 95 % interval over seeds. Tokens and nats: mean length and self-certainty of the"
    " evaluated completions, first -> last evaluation. KL to the start in nats per token, over the last tenth of"
    " training, 20 steps at most. Collapsed: accuracy lost and not regained, from this step on; alarm: the first that"
    " the guard raised."
)


def write(comparison: Comparison, path: Path) -> None:
    """Writes a comparison in the format that the file's suffix names; raises a MachineError where it cannot."""
    text = format_of(path)(comparison)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)


def format_of(path: Path) -> Callable[[Comparison], str]:
    """Finds the function that formats files with this suffix; raises a RecipeError where there is none."""
    if path.suffix not in FORMATS:
        raise RecipeError(f"cannot tell the format of {path}; its name has to end with {', '.join(FORMATS)}.")
    return FORMATS[path.suffix]


def groups(comparison: Comparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns for each task a title, the headings and the cells, a list per method."""
    headings = list(HEADINGS)
    if comparison.against:
        headings.insert(7, f"minus {comparison.against}")
    found = []
    for task in dict.fromkeys(row.task for row in comparison.rows):
        rows = [row for row in comparison.rows if row.task == task]
        found.append((_title(task, rows), headings, [cells(row, comparison.against) for row in rows]))
    return found


def cells(row: MethodResult, against: str | None = None) -> list[str]:
    """Formats a row as text."""
    return [
        row.method,
        _seeds(row),
        "-" if row.problems is None else str(row.problems),
        *("-" if share is None else f"{share:.1%}" for share in (row.start, row.best, row.end)),
        points(row.change),
        *([points(row.against)] if against else []),
        *_measures(row),
        _count(row, row.collapsed, f"step {step_range(row.collapsed.values())}"),
        "-"
        if not any(outcome.watched for outcome in row.counted)
        else _count(row, row.alarms, ", ".join(sorted({a.sign for a in row.alarms.values()}))),
    ]


def markdown(comparison: Comparison) -> str:
    """Formats the table, its notes, each seed, and what differs between the recipes."""
    seeds = sorted({run.seed for run in comparison.runs})
    methods = comparison.methods
    what = ", ".join(methods) if len(methods) < 5 else f"{len(methods)} methods"
    parts = [[f"# {what} on seed{'s' * (len(seeds) > 1)} {span(seeds)}"]]
    parts += [[f"    {comparison.command}"]] if comparison.command else []
    for title, headings, rows in groups(comparison):
        parts += [[f"## {title}"], pipe_table(headings, rows)]
    parts += [[LEGEND]]
    parts += [[f"- {note}" for note in comparison.notes]] if comparison.notes else []
    if len(methods) > 1:
        base, changes = recipe_differences(comparison)
        rows = [[method, "; ".join(f"`{change}`" for change in changed)] for method, changed in changes.items()]
        parts += [["## One recipe apart"], pipe_table(["method", f"its recipe, where it is not that of {base}"], rows)]
    headings = ["task", "method", "seed", *(heading for heading in HEADINGS[2:] if heading != "change")]
    rows = [[row.task or "-", row.method, *_outcome(outcome)] for row in comparison.rows for outcome in row.outcomes]
    parts += [["## Each seed"], ["Accuracy with its 95 % interval over problems, and the step."]]
    parts += [pipe_table(headings, rows)]
    text = "\n\n".join("\n".join(lines) for lines in parts)
    return f"{text}\n\n" + "".join(f"{line}\n" for line in _machines(comparison))


def comma_separated(comparison: Comparison) -> str:
    """Formats plain numbers, a line per method and task: accuracies are shares, lists have spaces between."""
    rows = [plain(row) for row in comparison.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: " ".join(map(str, v)) if isinstance(v, list) else v for key, v in row.items()})
    return file.getvalue()


def json_file(comparison: Comparison) -> str:
    """Formats the rows and the runs that they are made of; `rlif compare` reads the file again."""
    rows = [plain(row) for row in comparison.rows]
    return format_summaries(comparison.runs, rows, {"command": comparison.command, "against": comparison.against})


def plain(row: MethodResult) -> dict[str, Any]:
    """Returns a row as plain numbers."""
    against = row.against or Interval(0)
    return rounded(
        {
            "method": row.method,
            "task": row.task,
            "trained": row.trained,
            "seeds": row.seeds,
            "left_out": [outcome.seed for outcome in row.outcomes if not outcome.counts],
            "problems": row.problems,
            "start": row.start,
            "best": row.best,
            "end": row.end,
            "change": row.change.mean,
            "change_low": row.change.low,
            "change_high": row.change.high,
            "against_mean": against.mean,
            "against_low": against.low,
            "against_high": against.high,
            "against_seeds": list(row.common),
            "tokens_start": row.completion_length[0],
            "tokens_end": row.completion_length[1],
            "kl": row.kl,
            "self_certainty_start": row.self_certainty[0],
            "self_certainty_end": row.self_certainty[1],
            "collapsed_seeds": list(row.collapsed),
            "alarm_seeds": list(row.alarms),
        }
    )


FORMATS: Mapping[str, Callable[[Comparison], str]] = {".md": markdown, ".csv": comma_separated, ".json": json_file}


def recipe_differences(comparison: Comparison) -> tuple[str, dict[str, list[str]]]:
    """Returns the reference method, and for each other one the lines in which its recipe differs."""
    base = comparison.against or comparison.methods[0]
    changes = {
        method: [f"{key}: {_value(value)}" for key, value in changed.items()] or ["nothing"]
        for method, changed in comparison.differences.items()
        if method != base
    }
    return base, changes


def span(seeds: Sequence[int]) -> str:
    """Formats seeds in few characters: 0-2, or 0, 3, 4."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _seeds(row: MethodResult) -> str:
    """Formats the seeds that count, and the states of the others: 2 (0, 2); 1 failed."""
    states = Counter(outcome.state for outcome in row.outcomes if outcome.state != "finished")
    counted = f"{len(row.seeds)} ({span(row.seeds)})" if row.seeds else "0"
    return "; ".join([counted, *(f"{number} {state}" for state, number in states.items())])


def step_range(steps: Collection[int]) -> str:
    first, last = min(steps, default=0), max(steps, default=0)
    return str(first) if first == last else f"{first}-{last}"


def _title(task: str | None, rows: Sequence[MethodResult]) -> str:
    if task is None:
        return "nothing evaluated: what training logged"
    trained = {row.trained for row in rows}
    return task if len(trained) > 1 else f"{task} ({'trained on' if trained == {True} else 'never trained on'})"


def _outcome(outcome: Outcome) -> list[str]:
    if not outcome.counts:
        return [str(outcome.seed), "-", outcome.reason, *["-"] * 7]
    alarm = outcome.alarm
    return [
        str(outcome.seed),
        "-" if outcome.end is None else str(outcome.end.n),
        "-" if outcome.start is None else str(outcome.start),
        "-" if outcome.best is None else f"{outcome.best} ({outcome.best_step})",
        "-" if outcome.end is None else f"{outcome.end} ({outcome.end_step})",
        *_measures(outcome),
        "no" if outcome.collapsed is None else str(outcome.collapsed),
        f"{alarm.sign} {alarm.step}" if alarm else "no" if outcome.watched else "-",
    ]


def _machines(comparison: Comparison) -> list[str]:
    """Describes the machines and versions that made the runs, and names the runs where there are several."""
    made: dict[str, dict[str, list[int]]] = {}
    for run in comparison.runs:
        where = flatten({key: value for key, value in run.environment.items() if value not in (None, [], {})})
        facts = "; ".join(f"{key.removeprefix('packages.')} {_value(value)}" for key, value in where.items())
        made.setdefault(facts, {}).setdefault(run.method, []).append(run.seed)
    runs = {facts: ", ".join(f"{method} {span(seeds)}" for method, seeds in by.items()) for facts, by in made.items()}
    return [f"- {f'{which}: ' if len(made) > 1 else ''}made with {facts}." for facts, which in runs.items() if facts]


def pipe_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]


def _measures(found: MethodResult | Outcome) -> list[str]:
    return [
        _pair(found.completion_length, 1),
        "-" if found.kl is None else f"{found.kl:.3f}",
        _pair(found.self_certainty, 2),
    ]


def _pair(pair: Pair, digits: int) -> str:
    if pair == (None, None):
        return "-"
    return " -> ".join("-" if value is None else f"{value:.{digits}f}" for value in pair)


def _count(row: MethodResult, found: Mapping[int, Any], what: str) -> str:
    """Formats on how many of the seeds something was found, and what."""
    if not row.seeds:
        return "-"
    return f"{len(found)} of {len(row.seeds)}" + (f" ({what})" if found else "")


def points(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    unknown = interval.n > 0 and interval.low is None
    return interval.percent("+") + (f" ({interval.n} seed{'s'[: interval.n > 1]})" if unknown else "")


def _value(value: Any) -> str:
    return "null" if value is None else str(value)
