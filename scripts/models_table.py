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

import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from engines.trl.test_verification import PATHS, expected, trained
from support.architectures import OWN

from rlif.errors import RlifError

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="a page with the table's two marks")
    page = parser.parse_args().page
    logging.getLogger("rlif").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    lines = [f"| architecture | {' | '.join(PATHS)} | with dropout: {' | '.join(PATHS)} | largest error |"]
    lines.append("|---" * (2 + 2 * len(PATHS)) + "|")
    for name in sorted(OWN):
        cells = [cell(name, dropout, path) for dropout in (0.0, 0.1) for path in PATHS]
        lines.append(f"| {name} | {' | '.join(path for path, _ in cells)} | {max(off for _, off in cells):.0e} |")
        print(lines[-1], flush=True)
    text = page.read_text(encoding="utf-8")
    before, after = text.partition(START)[0], text.partition(END)[2]
    page.write_text("\n".join([before + START, *lines, END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
