"""Formats boards as a markdown page and as plain numbers. The same runs give the same bytes.

Under each board stand its claims, each with what would falsify it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlif.comparison.leaderboard import Board, Standing
from rlif.comparison.summary import flatten, rounded
from rlif.comparison.table import pipe_table, points, span, step_range
from rlif.config.recipe import Recipe
from rlif.errors import RecipeError
from rlif.files.atomic import replace_file, writing

HEADINGS = (
    "method", "reward", "seeds", "gain", "minus random", "transfer", "retention", "pass@k", "peak", "gives way",
    "tokens",
)  # fmt: skip
LEGEND = (
    "Gain: held-out accuracy on the task trained on, end minus start, in points. Minus random: gain minus that of a"
    " random reward, paired by seed. Transfer: the same as gain, on tasks never trained on, their mean. Retention: the"
    " share of the accuracy before training that is kept on them, at most 100 %, the lowest of them. pass@k:"
    " of samples, before and after training, means over seeds. Peak: the steps of the best evaluation, over seeds; it"
    " is found by gold answers. Gives way: seeds that lose half of their gain and a fifth of their best, for good, and"
    " since when. Tokens: sampled in training, per run, in thousands."
    " Intervals are Student's 95 % over seeds, not corrected for the number of methods: of twenty methods without an"
    " effect, one interval is expected to exclude 0. A dash is what was not measured."
)
LOSS = 0.1  # below the best, as in the studies of the guard
SEND = """## Adding rows

    rlif compare RUNS --out mine.json
    rlif leaderboard FILES mine.json --out leaderboard.md

RUNS are run folders, FILES those of the command at the top. A board has one setting; a run with another is refused, and
the message names the key. So are two runs of one method and seed, other problems, and weights that start elsewhere.
Another model or task makes a board of its own. A run folder gives a few kilobytes, without completions."""


def write(boards: Sequence[Board], path: Path, command: str) -> None:
    """Writes the boards in the format of the file's suffix; raises a MachineError where it cannot."""
    text = format_of(path)(boards, command)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)


def format_of(path: Path) -> Any:
    """Finds the function that formats files with this suffix; raises a RecipeError where there is none."""
    if path.suffix not in FORMATS:
        raise RecipeError(f"cannot tell the format of {path}; its name has to end with {', '.join(FORMATS)}.")
    return FORMATS[path.suffix]


def markdown(boards: Sequence[Board], command: str) -> str:
    """Formats all boards: gains side by side, then each board with its claims, then settings and machines."""
    parts = [["# Leaderboard"], [f"    {command}"], [LEGEND]]
    if len(boards) > 1:
        parts += [["## Gain on every base"], side_by_side(boards)]
    settings: list[dict[str, Any]] = []
    for board in boards:
        if board.setting not in settings:
            settings.append(board.setting)
        rows = [cells(row, board) for row in board.standings]
        parts += [[f"## {board.base}, trained on {board.task}"], [_facts(board, settings.index(board.setting) + 1)]]
        parts += [pipe_table(HEADINGS, rows), claims(board)]
        if notes := [f"- {row.method} seed {s}: {why}" for row in board.standings for s, why in row.left_out.items()]:
            parts += [["Not counted:"], notes]
    usual = flatten(Recipe().model_dump())
    parts += [["## Settings"], ["Keys that are not the default, of all but method and base."]]
    for number, setting in enumerate(settings, start=1):
        known = {key: value for key, value in setting.items() if not (key in usual and usual[key] == value)}
        parts += [[f"{number}. " + "; ".join(f"`{key}: {value}`" for key, value in known.items())]]
    parts += [[SEND], ["## Versions"], _versions(boards)]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def side_by_side(boards: Sequence[Board]) -> list[str]:
    """Formats the gain of every method on every board, the largest mean over the boards that all methods have first."""
    gains: dict[str, dict[int, Standing]] = {}
    for number, board in enumerate(boards):
        for row in board.standings:
            gains.setdefault(row.method, {})[number] = row
    measured = {method: {number for number, row in rows.items() if row.gain.n} for method, rows in gains.items()}
    shared = set.intersection(*measured.values()) if measured else set()
    order = sorted(gains, key=lambda m: -_mean(gains[m][number].gain.mean for number in shared or measured[m]))
    headings = ["method", *(f"{board.base}, {board.task}" for board in boards)]
    rows = [[m, *(_gain(gains[m].get(number)) for number in range(len(boards)))] for m in order]
    return pipe_table(headings, rows)


def cells(row: Standing, board: Board) -> list[str]:
    """Formats a standing as text."""
    n = len(row.seeds)
    return [
        row.method,
        f"`{row.reward}`",
        f"{n} ({span(row.seeds)})" if n else "0",
        points(row.gain),
        points(row.above_random),
        points(row.transfer),
        "-" if row.retention is None else f"{row.retention:.0%}",
        "-" if row.pass_at is None else f"@{row.pass_at[0]} {row.pass_at[1]:.0%} -> {row.pass_at[2]:.0%}",
        step_range(row.peaks.values()) if row.peaks else "-",
        f"{len(row.lost)} of {n}" + (f" (step {step_range(row.lost.values())})" if row.lost else "") if n else "-",
        "-" if row.tokens is None else f"{row.tokens / 1000:,.0f}",
    ]


def claims(board: Board) -> list[str]:
    """Writes what the board says, and after each claim what would falsify it."""
    rows = [row for row in board.standings if row.seeds]
    up, down = ([row.method for row in rows if row.learns is side] for side in (True, False))
    above = [row.method for row in rows if row.beats_random]
    alike = [row for row in rows if row.gain.low is None]  # seeds that agree to the last problem have no interval
    several = [row for row in alike if len(row.seeds) > 1]
    worse, better = ([row.method for row in several if sign * row.gain.mean > 0] for sign in (-1, 1))
    same = [row.method for row in alike if row.gain.mean == 0]
    gained = [row for row in rows if row.method in (*up, *better)]
    held = [row for row in gained if all(fall <= LOSS for fall in row.falls.values())]
    undecided = [row.method for row in rows if row.learns is None and row.method not in (*same, *worse, *better)]
    found = []
    if up:
        found += [
            f"- *Learns:* {', '.join(up)}. Falsified for a method if, with more seeds, its gain's interval holds 0."
        ]
    if down:
        found += [f"- *Loses accuracy:* {', '.join(down)}. Falsified in the same way."]
    if above:
        found += [
            f"- *Learns more than a random reward:* {', '.join(above)}. Falsified if, with more seeds of both, the"
            " interval of the paired difference holds 0."
        ]
    if held:
        found += [
            f"- *Ends within {100 * LOSS:.0f} points of its best after {board.steps} steps, on every seed:*"
            f" {', '.join(row.method for row in held)}. Falsified by a seed that does not; longer runs are another"
            " claim."
        ]
    if same:
        found += [
            f"- *Ends where it began, on every seed:* {', '.join(same)}. Falsified by a seed whose accuracy changes."
        ]
    if better:
        names = ", ".join(better)
        found += [f"- *Ends above its start, by as much on every seed:* {names}. Falsified by a seed that does not."]
    if worse:
        found += [f"- *Ends below its start, by as much on every seed:* {', '.join(worse)}. Falsified by a seed above."]
    if undecided:
        found += [f"- *Undecided:* {', '.join(undecided)}. The interval of the gain holds 0, or there is none."]
    return found


def json_file(boards: Sequence[Board], command: str) -> str:
    """Formats the boards as plain numbers: gains are shares, not points."""
    found = {"command": command, "boards": [_plain(board) for board in boards]}
    return json.dumps(rounded(found), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Any] = {".md": markdown, ".json": json_file}


def _plain(board: Board) -> dict[str, Any]:
    facts = {key: getattr(board, key) for key in ("base", "task", "problems", "start", "others", "steps", "setting")}
    return facts | {"standings": [_row(row) for row in board.standings]}


def _row(row: Standing) -> dict[str, Any]:
    intervals = {key: getattr(row, key) for key in ("gain", "above_random", "transfer")}
    return {
        "method": row.method,
        "reward": row.reward,
        "seeds": row.seeds,
        "left_out": {str(seed): why for seed, why in row.left_out.items()},
        **{key: None if value is None else value.as_dict() for key, value in intervals.items()},
        "retention": row.retention,
        "pass_at": None if row.pass_at is None else dict(zip(("k", "start", "end"), row.pass_at, strict=True)),
        "peaks": {str(seed): step for seed, step in row.peaks.items()},
        "gives_way": {str(seed): step for seed, step in row.lost.items()},
        "tokens": row.tokens,
    }


def _facts(board: Board, setting: int) -> str:
    before = "unknown" if board.start is None else f"{board.start:.1%}"
    others = f" Never trained on: {', '.join(board.others)}." if board.others else ""
    return (
        f"Accuracy before training {before}, n = {board.problems} held-out problems{_decoding(board)}.{others}"
        f" {board.steps} steps, setting {setting}."
    )


def _decoding(board: Board) -> str:
    """Says how the runs were evaluated, as far as they kept it."""
    found = board.runs[0].settings.get(board.task, {}).get("decoding") or {}
    temperature, samples = found.get("temperature"), found.get("n")
    if temperature is None:
        return ""
    return ", greedy answers" if not temperature else f", {samples} samples each at temperature {temperature:g}"


def _versions(boards: Sequence[Board]) -> list[str]:
    """Lists what made the runs: each set of versions, with its commits of rlif."""
    made: dict[str, set[str]] = {}
    for run in (run for board in boards for run in board.runs):
        facts = flatten({key: value for key, value in run.environment.items() if value not in (None, [], {})})
        commit = str(facts.pop("commit", "of unknown commit"))
        text = "; ".join(f"{key.removeprefix('packages.')} {value}" for key, value in facts.items())
        made.setdefault(text, set()).add(commit)
    return [f"- {text or 'unknown versions'}; commits {', '.join(sorted(commits))}." for text, commits in made.items()]


def _gain(row: Standing | None) -> str:
    return "-" if row is None or not row.seeds else f"{points(row.gain)}, n = {len(row.seeds)}"


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else float("-inf")
