"""Compares three ways to compare answers: rlif's, math-verify's alone, and the string normaliser of the MATH paper.

RLIF_DATA=DATA python scripts/grading_table.py docs/grading.md
"""

import argparse
import json
import logging
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from refusals import call

import rlif
from rlif.answers.equality import equal_all

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

Pair = tuple[str, str]  # answer, gold
Ways = dict[str, Callable[[list[Pair]], list[bool]]]
NEIGHBOURS = 20_000


def by_math_verify(pairs: Iterable[Pair]) -> list[bool]:
    """Compares by math-verify alone, each side in a box."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    boxed = [(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{answer}}}")) for answer, gold in pairs]
    return [verify(gold, answer) for gold, answer in boxed]


def by_strings(pairs: Iterable[Pair]) -> list[bool]:
    """Compares as arXiv 2103.03874 does: as texts, after rewriting a few things."""
    return [_normalised(answer) == _normalised(gold) for answer, gold in pairs]


def _normalised(text: str) -> str:
    for old in ("\n", "\\!", "\\left", "\\right", "^{\\circ}", "^\\circ", "\\$", "\\%", "%"):
        text = text.replace(old, "")
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac").partition("\\text{ ")[0]
    text = re.sub(r"(^|[ {])\.", r"\g<1>0.", text)
    if text.count("=") == 1 and len(text.partition("=")[0]) <= 2:
        text = text.partition("=")[2]
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", re.sub(r"\\frac(\w)\{", r"\\frac{\1}{", text))
    return re.sub(r"^(\d+)/(\d+)$", r"\\frac{\1}{\2}", "\\frac{1}{2}" if text == "0.5" else text)


def golds() -> list[str]:
    """Returns all distinct gold answers of MATH and GSM8K, so that similar ones are neighbours."""
    problems = [rlif.TASKS["math"].load(split) for split in ("train", "test")] + [rlif.TASKS["gsm8k"].load("test")]
    return sorted({p.gold for part in problems for p in part if p.gold}, key=lambda gold: (len(gold), gold))


def rows_of(named: Iterable[tuple[str, Pair]], expected: Callable[[Pair], bool], ways: Ways) -> list[tuple[str, ...]]:
    """Counts, for each kind of pairs, how many each way gets right."""
    items = list(named)
    pairs, kinds = [pair for _, pair in items], Counter(kind for kind, _ in items)
    right = {way: Counter[str]() for way in ways}
    for way, compare in ways.items():
        for (kind, pair), verdict in zip(items, compare(pairs), strict=True):
            right[way][kind] += verdict == expected(pair)
    return [(kind, f"{number:,}", *(f"{right[way][kind]:,}" for way in ways)) for kind, number in sorted(kinds.items())]


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Formats rows in Markdown, with a last row of sums."""
    sums = [f"{sum(int(row[column].replace(',', '')) for row in rows):,}" for column in range(1, len(header))]
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows, ("all", *sums)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def disagreements(listed: list[dict[str, Any]]) -> str:
    """Lists pairs on which both disagree: all that math-verify takes for equal, two of each kind that it refuses."""
    pairs, words = [(row["answer"], row["gold"]) for row in listed], ("different", "equal")
    lines, refused = [], Counter[str]()
    for row, ours, theirs in zip(listed, equal_all(pairs), by_math_verify(pairs), strict=True):
        refused[row["kind"]] += ours and not theirs
        if ours != theirs and (theirs or refused[row["kind"]] <= 2):
            right = "rlif" if ours == row["equal"] else "math-verify"
            cells = f"`{row['answer']}` | `{row['gold']}`".replace("\\|", "\\\\|")
            lines.append(f"| {row['kind']} | {cells} | {words[ours]} | {words[theirs]} | {right} |")
    return "\n".join(["| kind | answer | gold | rlif | math-verify | right |", "|---|---|---|---|---|---|", *lines])


def main() -> None:
    """Writes the tables between the marks of the page."""
    from support.respellings import respellings  # pyright: ignore[reportMissingImports]
    from torture import replaced

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="the page with the marks")
    page = parser.parse_args().page
    ways: Ways = {"rlif": equal_all, "math-verify": by_math_verify, "MATH's strings": by_strings}
    chance, all_golds = random.Random(0), golds()
    listed = [json.loads(line) for line in (ROOT / "tests/answers/pairs.jsonl").read_text("utf-8").splitlines()]
    right = {(row["answer"], row["gold"]): row["equal"] for row in listed}
    kinds = [(row["kind"], (row["answer"], row["gold"])) for row in listed]
    respelled = [(name, (other, gold)) for gold in all_golds for name, other in respellings(gold)]
    neighbours = [(a, b) for distance in range(1, 6) for a, b in zip(all_golds, all_golds[distance:], strict=False)]
    different = [("neighbouring golds", pair) for pair in neighbours[:NEIGHBOURS]]
    for gold in all_golds:
        places = [place for place, character in enumerate(gold) if character in "0123456789"]
        for place in chance.sample(places, min(3, len(places))):
            digit = chance.choice([digit for digit in "123456789" if digit != gold[place]])
            different.append(("one digit changed", (gold[:place] + digit + gold[place + 1 :], gold)))
    header = ("pairs", *ways)
    tables = {
        "kinds": table(("kind", *header), rows_of(kinds, right.__getitem__, ways)),
        "respellings": table(("respelling", *header), rows_of(respelled, lambda _: True, ways)),
        "different": table(("kind", *header), rows_of(different, lambda _: False, ways)),
        "wrong": disagreements(listed),
    }
    text = page.read_text("utf-8")
    for name, made in tables.items():
        text = replaced(text, name, made)
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    call(main)
