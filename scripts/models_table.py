"""Trains tiny random models of many architectures over every path; writes docs/models.md's table: exact, or refused.

python scripts/models_table.py docs/models.md
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from refusals import call

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from engines.trl.test_verification import PATHS, expected, trained  # pyright: ignore[reportMissingImports]
from support.architectures import OWN, architecture  # pyright: ignore[reportMissingImports]

import rlif
from rlif.config.passes import EVERY
from rlif.errors import RlifError
from rlif.scoring.exactness import TOLERANCE, deviation

START, END = "<!-- table: scripts/models_table.py -->", "<!-- end of the table -->"


def cell(name: str, dropout: float, path: str) -> tuple[str, float]:
    """Returns the path that was taken and the largest error of a reward, in nats a token."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        try:
            trainer = trained(Path(folder), name, dropout, path)
        except RlifError:
            return "refused", 0.0
    (rollout,) = trainer.rollouts
    return rollout["path"], max(abs(row.reward - expected(trainer, row, path)) for row in rollout["scored"])


def rounding(dtype: torch.dtype) -> str:
    """Returns the largest deviation of rows together from rows alone, in eval mode, where nothing else differs."""
    prompts, completions = [[7, 9] * 20, [9], [8, 30, 40, 50, 60]], [[*range(10, 26)], [*range(40, 50)], [20, 44, 55]]
    found: dict[str, float] = {}
    for name in OWN:
        with contextlib.suppress(RlifError, RuntimeError):  # refused, or not written for this type
            model = architecture(name).to(dtype)
            together, alone = (
                rlif.score_completions(model, prompts, completions, top_k=20, batch_size=size) for size in (3, 1)
            )
            first, second = ({name: getattr(stats, f"{name}_BT") for name in EVERY} for stats in (together, alone))
            found[name] = deviation(first, second, [len(row) for row in completions])
    kind = str(dtype).removeprefix("torch.")
    return f"{max(found.values()):.1g} in {kind} (limit {TOLERANCE[dtype]:g}, {len(found)} architectures)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="a page with the table's two marks")
    page = parser.parse_args().page
    logging.getLogger("rlif").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()  # of each small model
    lines = [f"| architecture | {' | '.join(PATHS)} | with dropout: {' | '.join(PATHS)} | largest error |"]
    lines.append("|---" * (2 + 2 * len(PATHS)) + "|")
    for name in sorted(OWN):
        cells = [cell(name, dropout, path) for dropout in (0.0, 0.1) for path in PATHS]
        lines.append(f"| {name} | {' | '.join(path for path, _ in cells)} | {max(off for _, off in cells):.0e} |")
        print(lines[-1], flush=True)
    sizes = "; ".join(map(rounding, TOLERANCE))
    lines.append(f"\nRounding alone, rows together against rows alone, in nats a token at most: {sizes}.")
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(START)[0], text.partition(END)[2]
    page.write_text("\n".join([before + START, *lines, END]) + after, encoding="utf-8")


if __name__ == "__main__":
    call(main)
