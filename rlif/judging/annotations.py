"""Asks a judge about pairs and keeps its answers on disk, or reads recorded annotations.

Each answer is appended to a file of JSON lines as it arrives. Its `key` is a digest of the pair, the judge's name and
its messages. So a killed run is resumed where it stopped, and a pair whose output, prompt or judge changed is judged
again.

Unjudged and failed differ. A reply that names neither m nor M is unjudged: preference None, written, not asked again.
A failed request (rate limit, time-out, broken reply) is not written, and the next run repeats it. Neither counts as a
loss: the win rates leave both out and report their share.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlif import progress
from rlif.errors import DataError, MachineError, RlifError
from rlif.files.atomic import is_number, writing
from rlif.files.jsonl import JsonLog
from rlif.files.lock import alone
from rlif.files.tables import Row, read_rows
from rlif.judging.judge import Judge, Pair, Refused, Unanswered, Verdict
from rlif.judging.win_rate import Annotation
from rlif.types import Problem

CHARACTERS_PER_TOKEN = 4
PATIENCE = 10  # failed requests in a row, then the endpoint is taken to be down


@dataclass
class JudgeResult:
    """Holds the annotations of a judge, and counts of its requests."""

    # one per pair, in their order; preference None where there is none
    annotations: list[Annotation] = field(default_factory=list)
    requested: int = 0  # requests made now, retries not counted; `known`: answers that were there before
    known: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # failed requests by reason


def _answers(log: JsonLog) -> dict[str, Row]:
    """Reads a judge's answers by key."""
    answers = {}
    for number, row in log.rows():
        preference = row.get("preference")
        if not isinstance(row.get("key"), str) or not (preference is None or is_number(preference)):
            raise DataError(f"line {number} of {log.path} is not a judge's answer; move the file away.")
        answers[row["key"]] = row
    return answers


def estimate_cost(judge: Judge, pairs: Sequence[Pair], path: Path) -> dict[str, int]:
    """Estimates the requests and tokens still to pay for: characters / 4 as input tokens, one output token each."""
    answers = _answers(JsonLog(path))
    missing = [pair for pair in pairs if judge.key(pair) not in answers]
    characters = sum(len(message["content"]) for pair in missing for message in judge.messages(pair))
    return {"requests": len(missing), "input_tokens": characters // CHARACTERS_PER_TOKEN, "output_tokens": len(missing)}


def annotate(judge: Judge, pairs: Sequence[Pair], path: Path, workers: int = 8) -> JudgeResult:
    """Asks the judge about every pair that the file does not hold yet.

    Args:
        path: where answers go, as JSON lines; continued if it exists.

    Raises:
        MachineError: the endpoint refuses everything, or ten requests in a row failed. Answers stay on disk. Another
            process asks for the same file.
    """
    log = JsonLog(path, ascii=False)
    answers = _answers(log)
    missing = [pair for pair in pairs if judge.key(pair) not in answers]
    judged = JudgeResult(requested=len(missing), known=len(pairs) - len(missing))
    if missing:
        client = judge.connect()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)

        def ask(pair: Pair) -> None:
            row = _row(judge, pair, judge.ask(client, pair))
            with writing(path):
                log.append(row)
            answers[row["key"]] = row

        shown = progress.task("judging", len(pairs), done=judged.known)
        with alone(path), ThreadPoolExecutor(workers) as pool, shown as advance:
            log.cut()
            waiting = [pool.submit(ask, pair) for pair in missing]
            try:
                stopped = _collect(waiting, judged, advance)
            finally:
                _cancel(waiting)
        if stopped:
            held = sum(judge.key(pair) in answers for pair in pairs)
            raise MachineError(f"{stopped} {held} of {len(pairs)} pairs are judged, in {path}; run again to go on.")
    for pair in pairs:
        preference = answers.get(judge.key(pair), {}).get("preference")
        judged.annotations.append(Annotation(pair.index, preference, len(pair.baseline), len(pair.output)))
    return judged


def _collect(waiting: Iterable[Future[None]], judged: JudgeResult, advance: Callable[[], None]) -> str | None:
    """Counts answers and failures; returns a sentence if asking was given up. Requests in flight still arrive.

    Refusals count against the endpoint only until its first answer, since it may never accept some outputs.
    """
    stopped, in_a_row, answers = None, 0, judged.known
    for future in as_completed(waiting):
        if future.cancelled():
            continue
        try:
            future.result()
            in_a_row, answers = 0, answers + 1
            advance()
        except Unanswered as error:
            judged.failed[str(error)] += 1
            in_a_row += not (isinstance(error, Refused) and answers)
            if in_a_row >= PATIENCE and stopped is None:
                stopped = f"the judge failed {in_a_row} times in a row, the last time with {error};"
        except RlifError as error:
            stopped = stopped or str(error)
        if stopped:
            _cancel(waiting)
    return stopped


def _cancel(waiting: Iterable[Future[None]]) -> None:
    for future in waiting:
        future.cancel()


def _row(judge: Judge, pair: Pair, verdict: Verdict) -> Row:
    return {
        "key": judge.key(pair),
        "id": pair.id,
        "index": pair.index,
        "preference": verdict.preference,
        "read_from": verdict.read_from,
        "len_1": len(pair.baseline),
        "len_2": len(pair.output),
        "judge": judge.model,
        "model_first": judge.shows_model_first(pair.instruction),
    }


def read_pairs(problems: Sequence[Problem], source: str) -> list[Pair]:
    """Pairs the outputs in a file with the baseline's, one pair per problem, in the order of the problems.

    Args:
        problems: those of the task alpaca_eval; `data` has index and baseline.
        source: rows {id or instruction, output or completion}; the records of an evaluation have that layout.
    """
    by_name = {problem.id: problem for problem in problems} | {problem.text: problem for problem in problems}
    outputs: dict[str, str] = {}
    for number, row in enumerate(read_rows(source, "test"), start=1):
        name, output = row.get("id", row.get("instruction")), row.get("output", row.get("completion"))
        if not isinstance(name, str) or not isinstance(output, str):
            raise DataError(f"row {number} of {source} needs id or instruction, and output or completion, as text.")
        problem = by_name.get(name) or by_name.get(str(row.get("instruction")))
        if problem is None:
            raise DataError(f"row {number} of {source} is for {name[:60]!r}, which alpaca_eval does not have.")
        if problem.id in outputs:
            raise DataError(f"{source} has more than one output for {problem.id}; expected one per instruction.")
        outputs[problem.id] = output
    missing = [problem.id for problem in problems if problem.id not in outputs]
    if missing:
        raise DataError(
            f"{source} has no output for {len(missing)} of the {len(problems)} instructions, e.g. for {missing[0]}."
        )
    return [
        Pair(problem.id, problem.data["index"], problem.text, problem.data["baseline"], outputs[problem.id])
        for problem in problems
    ]


def check_same_outputs(
    annotations: Sequence[Annotation], problems: Sequence[Problem], pairs: Sequence[Pair] = ()
) -> None:
    """Checks by lengths that half the annotations are of this baseline, and all, given pairs, of these outputs."""
    baseline = {problem.data["index"]: len(problem.data["baseline"]) for problem in problems}
    strange = sum(row.len_1 != baseline.get(row.index) for row in annotations)
    if 2 * strange > len(annotations):
        raise DataError(
            f"{strange} of {len(annotations)} annotations compare with outputs of another length than"
            " gpt4_1106_preview's: they are against another baseline, for which there is no length control."
        )
    outputs = {pair.index: len(pair.output) for pair in pairs}
    for row in annotations:
        if outputs.get(row.index, row.len_2) != row.len_2:
            raise DataError(
                f"the annotation of instruction {row.index} is of an output of {row.len_2} characters, but yours has"
                f" {outputs[row.index]}: it was made for other outputs."
            )


def read_annotations(source: str, index_of: Mapping[str, int]) -> list[Annotation]:
    """Reads recorded annotations, in their order.

    Args:
        source: a file of rows {index, preference, len_1, len_2}, or {instruction, output_1, output_2, preference} as
            upstream's annotations.json has them (output_1 is the baseline's).
    """
    return [_annotation(row, number, source, index_of) for number, row in enumerate(read_rows(source, "test"), start=1)]


def _annotation(row: Any, number: int, source: str, index_of: Mapping[str, int]) -> Annotation:
    if "preference" not in row:
        raise DataError(f"row {number} of {source} has no 'preference', so it is not an annotation.")
    preference = _preference(row["preference"], number, source)
    try:
        if "len_1" in row:
            return Annotation(int(row["index"]), preference, int(row["len_1"]), int(row["len_2"]))
        index = index_of.get(row["instruction"])
        lengths = len(row["output_1"]), len(row["output_2"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"row {number} of {source} has {', '.join(row)}; expected index, len_1 and len_2, or instruction, output_1"
            " and output_2, besides preference."
        ) from None
    if index is None:
        raise DataError(f"the instruction in row {number} of {source} is not one of the {len(index_of)} of AlpacaEval.")
    return Annotation(index, preference, *lengths)


def _preference(value: Any, number: int, source: str) -> float | None:
    """Reads a preference. Upstream writes 0 for a tie and NaN where there is none."""
    try:
        preference = None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        preference = -1.0
    if preference is None or math.isnan(preference):
        return None
    if preference == 0:
        return 1.5
    if not 1 <= preference <= 2:
        raise DataError(f"row {number} of {source} has the preference {value!r}; expected 1 (baseline) to 2 (model).")
    return preference
