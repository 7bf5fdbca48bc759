"""Self-rewarding: the policy judges its own answers from 0 to 5 points.

A judgement is a completion of a prompt with the question, the answer and a rubric of five points that add up. The score
of an answer is the mean of its judgements that name a number from 0 to 5. Without a tie, the best answer is chosen
against the worst.

Source: arXiv 2401.10020. Defaults there: 4 answers at temperature 0.7 and top-p 0.9, 3 judgements averaged, DPO with
beta 0.1. Checked against an implementation of others, lucidrains/self-rewarding-lm-pytorch, since the authors published
no code; the paper's text could not be read here. The rubric has five additive points as
there, in our words.

Otherwise than there: prompts are those of the task, and are not proposed by the model. The judge is not trained first
on judgements of people.

Watch: small models often write no score, or one score for everything. A round is refused where too few can be read.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlif.config.recipe import Recipe
from rlif.config.rounds import options_of
from rlif.config.steps import Most
from rlif.engines.rounds.examples import Built, Round, by_values, in_batches
from rlif.errors import DataError, RecipeError
from rlif.files.jsonl import Row
from rlif.sampling.sampler import Decoding
from rlif.tasks import Task
from rlif.tasks.prompts import Prompt
from rlif.tasks.rendering import render_all
from rlif.types import Problem

OPTIONS: dict[str, Any] = {
    "judgements": 3,  # of each answer
    "judge_temperature": 0.7,
    "judge_top_p": 0.9,
    "judge_max_tokens": 256,  # of one judgement
    "least_parsed": 0.5,  # the share of judgements that must name a score; ours
}
HIGHEST = 5

RUBRIC = """Judge an answer to a question. Start at 0 points and add one point for each statement that holds:

1. The answer is about the question and says something useful about it.
2. It covers a large part of what was asked.
3. It answers the core of the question, so that one could work with it.
4. It answers the whole question directly, clearly and in good order.
5. It is what an expert would write: correct, to the point, without anything superfluous.

Question:
{question}

Answer:
{answer}

First give your reasons in at most three sentences. Then write the sum in a last line of this form:
Score: <points from 0 to 5>"""
PLACE = re.compile(r"\{(question|answer)\}")
SCORE = re.compile(r"\bscore\b[^\w-]{0,4}(?:is\b[^\w-]{0,3})?(-?\d+(?:\.\d+)?)", re.IGNORECASE)


def judge_prompt(question: str, answer: str) -> str:
    """Fills question and answer into the rubric; braces inside them stay as they are."""
    texts = {"question": question, "answer": answer}
    return PLACE.sub(lambda found: texts[found.group(1)], RUBRIC)


def read_score(judgement: str) -> float | None:
    """Reads the last score that a judgement names; None if it names none, or one that is not from 0 to 5.

    Example:
        >>> read_score("It is relevant. Score: 4"), read_score("Good."), read_score("Score: 7")
        (4.0, None, None)
    """
    found = SCORE.findall(judgement)
    score = float(found[-1]) if found else math.nan
    return score if 0 <= score <= HIGHEST else None


def mean_score(scores: Sequence[float | None]) -> float | None:
    """Averages the scores that could be read; None if there are none."""
    found = [score for score in scores if score is not None]
    return math.fsum(found) / len(found) if found else None


def check_parsed(parsed: int, asked: int, least: float) -> None:
    """Refuses judgements of which too few name a score.

    Raises:
        DataError: says how many, and what to do.
    """
    if parsed < least * asked:
        raise DataError(
            f"{parsed} of {asked} judgements name a score from 0 to {HIGHEST}, and at least {least:.0%} must; this"
            " model cannot judge itself, so train a larger or an instruction-tuned one, or choose: surest."
        )


def judge(round_: Round, groups: list[list[Row]]) -> Built:
    """Judges all rows; makes a pair of each group for dpo, or keeps its best for sft.

    Raises:
        DataError: too few judgements name a score.
    """
    options = options_of(round_.recipe, OPTIONS)
    judged = _judgements(round_, [row for group in groups for row in group], options)
    scores = [score for each in judged for score in each["scores"]]
    parsed = sum(score is not None for score in scores)
    check_parsed(parsed, len(scores), options["least_parsed"])
    means = iter([mean_score(each["scores"]) for each in judged])
    values = [[None if (mean := next(means)) is None else (mean,) for _ in group] for group in groups]
    built = by_values(round_, groups, values)
    counts = {"parsed": parsed / max(1, len(scores)), "judge_tokens": sum(each["tokens"] for each in judged)}
    if (score := mean_score(scores)) is not None:
        counts["judge_score"] = score
    return Built(built.examples, built.counts | {name: float(count) for name, count in counts.items()})


def check(recipe: Recipe, task: Task, problems: Sequence[Problem]) -> None:
    """Refuses options that mean nothing."""
    options = options_of(recipe, OPTIONS)
    for name in ("judgements", "judge_max_tokens", "judge_temperature", "judge_top_p"):
        if not options[name] > 0:
            raise RecipeError(f"rounds.options.{name} must be positive, not {options[name]}.")
    if not 0 <= options["least_parsed"] <= 1:
        raise RecipeError(f"rounds.options.least_parsed is a share from 0 to 1, not {options['least_parsed']}.")


def most(recipe: Recipe, most: Most) -> Most:
    """Counts the judgements beside the samples."""
    options = options_of(recipe, OPTIONS)
    more = most.completions * options["judgements"]
    return replace(most, completions=most.completions + more, tokens=most.tokens + more * options["judge_max_tokens"])


def _judgements(round_: Round, rows: Sequence[Row], options: dict[str, Any]) -> list[Row]:
    """Asks about each row; returns its `scores`, None for those that cannot be read, and the `tokens` they took."""
    n, tokenizer = options["judgements"], round_.scorer.tokenizer

    def work(part: Sequence[Row], number: int) -> list[Row]:
        asked = [judge_prompt(round_.problem(row["id"]).text, row["completion"]) for row in part]
        how = Decoding(
            options["judge_max_tokens"],
            options["judge_temperature"],
            options["judge_top_p"],
            n=n,
            seed=round_.rng("judgement", number).randrange(2**31),
            ends=round_.scorer.ends,
        )
        found = round_.complete(render_all(tokenizer, Prompt(), asked, round_.scorer.chat), how)
        judged = []
        for i, row in enumerate(part):
            mine = found[i * n : (i + 1) * n]
            scores, tokens = [read_score(each.text) for each in mine], sum(len(each.completion_ids) for each in mine)
            judged.append({"id": row["id"], "sample": row["sample"], "scores": scores, "tokens": tokens})
        return judged

    size = max(1, round_.scorer.batch_size // n)
    batches = in_batches(round_.folder / "judgements.jsonl", rows, size, work, "judging")
    return [each for batch in batches for each in batch]
