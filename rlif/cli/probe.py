"""`rlif probe`, and what `rlif train` prints about the guard: parsing and printing only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlif.cli.console import quiet_transformers, working
from rlif.cli.options import Columns, Overrides, Recipe, named_columns

if TYPE_CHECKING:
    from rich.console import Console

    from rlif.intervals import Interval
    from rlif.runs.folder import Run


@working("forecasting", "a forecast keeps nothing; give the same command again")
def probe(
    recipe: Recipe,
    overrides: Overrides = None,
    problems: Annotated[int, typer.Option(min=2, help="Problems, each completed num_generations times.")] = 32,
    columns: Columns = None,
) -> None:
    """Forecast whether a recipe's model will gain.

    Samples one rollout, reads no labels and trains nothing. Example: `rlif probe demo`.
    """
    from rlif.config.loading import load_recipe
    from rlif.training.forecast import probe

    quiet_transformers()
    named = [f"columns={json.dumps(named_columns(columns))}"] if columns else []
    settings = load_recipe(recipe, [*(overrides or []), *named])
    found = probe(settings, problems)
    print(f"{found.completions} completions of {found.problems} problems, nothing trained")
    rows = {
        f"spread of {settings.reward} within groups": "-" if found.spread is None else f"{found.spread:.3g}",
        "groups whose answers differ": f"{found.disagree:.0%}",
        "pull towards the frequent answer": _share(found.pull),
        "pull towards longer completions": _share(found.longer),
        "truncated": f"{found.truncated:.0%}",
        "without an answer": f"{found.unanswered:.0%}",
        "going on after the answer": f"{found.goes_on:.0%}",
    }
    for name, value in rows.items():
        print(f"  {name:<45}{value}")
    print(f"will it gain: {found.verdict}: {'; '.join(found.reasons)}.")
    print("Frequent answers need not be right ones, and when a collapse comes is not in this forecast.")


def _share(found: Interval | None) -> str:
    if found is None:
        return "-"
    bounds = f"({found.n} group{'s'[: found.n > 1]})" if found.low is None else f"[{found.low:.2f}, {found.high:.2f}]"
    return f"{found.mean:.2f} {bounds}  (0.5: none)"


def show_guard(run: Run, console: Console) -> None:
    """Prints what the guard found in a finished run."""
    found = run.summary()["guard"]
    best = found["best_healthy_checkpoint"]
    where = f"the best healthy checkpoint: {run.path / Path(best)}" if best else "there is no healthy checkpoint"
    stopped = found["stopped"]
    signs = ", ".join(sorted({alarm["sign"] for alarm in found["alarms"] if alarm["severity"] == "alarm"}))
    if stopped:
        what = f"ended the run at step {stopped['step']}: {stopped['seen']}, since step {stopped['since']}"
    else:
        what = f"raised {signs} and went on (policy log)"
    if stopped or signs:
        console.print(f"the guard {what}; {where}", highlight=False, soft_wrap=True)
