r"""Measures the health of a rollout from the text and tokens of its completions, without labels.

With c a completion, its prompt x, its group the completions of the same prompt:

    repetition    mean over c of 1 - |distinct 4-grams| / |4-grams| of its tokens: seq-rep-4 of arXiv 1908.04319, where
                  human text has 0.04 and greedy loops 0.44 and more; under 4 tokens it is 0
    compression   mean over c of bytes / bytes left by zlib; one repeated character is 50 and more, prose 1 - 3
    goes_on       share of c that open a new problem or turn (see OPENER), or go on for more than TAIL characters after
                  the first \boxed answer; the most common failure with the reference implementation
    unanswered    share of c in which the task finds no answer; 1 for tasks that extract none, so only its change counts
    distinct      answers that differ, per group, as a share of its answered completions: 1 = all differ
    agreement     share of the answered completions of a group that give its most frequent answer
    same_answer   share of the groups with the same most frequent answer
    pull          P(reward of a completion with its group's most frequent answer > of one with another), ties half, mean
                  over the groups in which both occur and one answer leads; 0.5 where the reward and the votes part
    prompt_use    mean over c of the share of the problem's words that c uses; templates count as well, so only its
                  change counts. It falls when completions are no longer about their problem

Nothing here distinguishes right from wrong. Answers are compared as text: `1/2` is not `0.5`.
"""

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

NGRAM = 4
TAIL = 40  # characters without spaces: a full stop, a unit or a closing phrase may follow an answer
WORD = re.compile(r"\w+")
BOX = re.compile(r"\\f?box(?:ed)?\s*\{")
OPENER = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>"
    r"|(?:^|\n)\W{0,4}(?:human|user|question|problem|exercise|assistant)\b[ \d]{0,4}\W{0,3}:"
    r"|\b(?:next|another|new|similar|following) (?:problem|question|exercise)\b",
    re.IGNORECASE,
)


def measure_health(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Measures the health of a rollout; a measure without data is left out.

    Args:
        rows: completions of a run folder, group by group: each has `prompt` (text or conversation), `prompt_ids`,
            `completion`, `completion_ids` and `answer` (None where there is none); `reward`, where there is one.

    Example:
        >>> row = {"prompt": "2 + 2?", "prompt_ids": [5, 6], "completion": "It is 4.", "completion_ids": [7, 8]}
        >>> measure_health([{**row, "answer": "4"}, {**row, "answer": None}])["unanswered"]
        0.5
    """
    if not rows:
        return {}
    found = {
        "repetition": fmean(repetition(row["completion_ids"]) for row in rows),
        "compression": fmean(compression(row["completion"]) for row in rows),
        "goes_on": fmean(goes_on(row["completion"]) for row in rows),
        "unanswered": fmean(row["answer"] is None for row in rows),
    }
    return found | _words_used(rows) | _answers(rows)


def repetition(ids: Sequence[int]) -> float:
    """Computes the share of 4-grams that occurred before; 0 for fewer than 4 tokens.

    Example:
        >>> repetition([7, 7, 7, 7, 7, 7])
        0.6666666666666667
    """
    grams = [tuple(ids[i : i + NGRAM]) for i in range(len(ids) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def compression(text: str) -> float:
    """Computes how many times smaller zlib makes a text, without its header; 1 for an empty one.

    Example:
        >>> compression("ha" * 500) > 50
        True
    """
    raw = text.encode(errors="replace")
    header = len(zlib.compress(b""))
    return len(raw) / max(1, len(zlib.compress(raw)) - header) if raw else 1.0


def goes_on(text: str) -> bool:
    r"""Tells whether a completion goes on after its answer, or opens a new problem or turn.

    Example:
        >>> goes_on("It is \boxed{4}. Next problem: what is 5 + 5?")
        True
    """
    opener = OPENER.search(text)
    if opener and opener.start() > 0:
        return True
    box = BOX.search(text)
    return box is not None and len("".join(_after_braces(text, box.end()).split())) > TAIL


def _after_braces(text: str, start: int) -> str:
    """Returns the text after the brace that closes the one just before `start`; nothing where it stays open."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[place + 1 :]
    return ""


def _words_used(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    shares = []
    for row in rows:
        prompt = row["prompt"]
        problem = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
        words = set(WORD.findall(problem.lower()))
        if words:
            shares.append(len(words & set(WORD.findall(row["completion"].lower()))) / len(words))
    return {"prompt_use": fmean(shares)} if shares else {}


def groups(rows: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Groups neighbouring rows of the same prompt."""
    return [list(group) for _, group in groupby(rows, key=lambda row: tuple(row["prompt_ids"]))]


def _answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Measures agreement within and between groups; groups with fewer than two answers do not count."""
    answered = [[row for row in group if row["answer"] is not None] for group in groups(rows)]
    counts = [Counter(row["answer"].strip() for row in group) for group in answered]
    pulls = [value for group in answered if (value := pull(group)) is not None]
    if not (counts := [count for count in counts if count.total() > 1]):
        return {}
    favourites = Counter(count.most_common(1)[0][0] for count in counts)
    return {
        "distinct": fmean((len(count) - 1) / (count.total() - 1) for count in counts),
        "agreement": fmean(count.most_common(1)[0][1] / count.total() for count in counts),
        "same_answer": favourites.most_common(1)[0][1] / len(counts),
        **({"pull": fmean(pulls)} if pulls else {}),
    }


def pull(group: Sequence[Mapping[str, Any]]) -> float | None:
    """Computes the pull of a group of answered completions; None where no answer leads, or nothing is rewarded.

    Example:
        >>> pull([{"answer": "4", "reward": 2.0}, {"answer": "4", "reward": 0.5}, {"answer": "5", "reward": 1.0}])
        0.5
    """
    (first, n), (_, second) = [*Counter(row["answer"].strip() for row in group).most_common(2), ("", 0), ("", 0)][:2]
    scored = [(row["answer"].strip() == first, row["reward"]) for row in group if row.get("reward") is not None]
    leading, others = ([reward for leads, reward in scored if leads is side] for side in (True, False))
    return wins(list(itertools.product(leading, others))) if n > second else None


def wins(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Computes how often the first of a pair is larger, ties half; None without pairs."""
    return fmean((a > b) + (a == b) / 2 for a, b in pairs) if pairs else None
