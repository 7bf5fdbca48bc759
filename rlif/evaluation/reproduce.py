"""Grades recorded outputs of models, and compares the scores with the published ones.

A folder holds `expected.json`, {entry: {items, metric, published, tolerance}}, and the recorded outputs of each entry:

    zeroeval_<set>/<model>.jsonl.gz               {id, output}: ZeroEval's accuracy, its prompts and rules
    cruxeval_o/<run>.generations.json.gz          {id: [answer, ...]} and the same of verdicts in <run>.labels.json.gz
    cruxeval_<run>.json.gz                        answers and verdicts in `completion_scored`
    humaneval_<run>, mbpp_<run>                   {task_id, completion} in .generated.jsonl.gz, verdicts on the original
                                                  and on EvalPlus' inputs in .labels.json
    lcb_<run>.jsonl.gz                            {question_id, output, code, graded, metadata}
    mmlu_pro/<model>.jsonl.gz                     {question_id, output, pred}
    alpaca_eval/<model>.jsonl.gz                  {index, preference, len_1, len_2}
    gsm8k_labelled*.jsonl.gz, math500_half*.jsonl solutions, labelled or all right

The prefix of an entry's name selects its family. No rule depends on the model, except ZeroEval's own for Llama-3.1. An
entry that cannot be checked counts as out, with one sentence why: no such family, a missing or torn file, other ids.
"""

import json
import logging
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from rlif import progress
from rlif.answers.equality import equal_all
from rlif.answers.extraction import CHOICE_SENTENCE, choice_letter, fenced_code, json_answer, last_boxed
from rlif.errors import DataError, RlifError, first_line
from rlif.evaluation.published import Check, Entry, check_ids, percent, read_json
from rlif.files.tables import Row
from rlif.judging import win_rate
from rlif.tasks import find_task
from rlif.tasks.code.programs import CodeTask, run_trials
from rlif.tasks.code.stdin_tests import Test, trials_of
from rlif.tasks.mmlu_pro import LETTERS, draw
from rlif.tasks.zeroeval import first_number_equal, load_zeroeval, text_equal
from rlif.types import Problem

logger = logging.getLogger(__name__)

AGREEMENT = 0.9999  # of verdicts with published ones, where a family has them by sample
ALPACA_ITEMS = 805
EVALPLUS = {"humaneval": ("humaneval", "humaneval.plus"), "mbpp": ("mbpp.base-ordered", "mbpp.plus-ordered")}
HOMES = ("alpaca_eval", "cruxeval", "humaneval", "livecodebench", "mbpp", "mmlu_pro", "zeroeval")
MOST = 0.8  # of the letters without a sentence that the first rule reads
CUT = "...(truncated) ..."  # in records of LiveCodeBench


def check_graders(folder: str | Path, data: str | Path | None = None, *, unsafe_local: bool = False) -> list[Check]:
    """Grades the recorded outputs in a folder, entry by entry of its expected.json.

    Args:
        data: folder of problems and gold answers, laid out as RLIF_DATA; if left out, the folder's parent, or what
            RLIF_DATA names if the parent has no problems.
    """
    folder = Path(folder).expanduser()
    expected = read_json(folder / "expected.json")
    if not isinstance(expected, dict):
        raise DataError(f"{folder / 'expected.json'} holds a {type(expected).__name__}; expected entries by name.")
    rows = []
    home = _home_of(folder) if data is None else Path(data).expanduser()
    with _data_at(home), progress.task("grading published outputs", len(expected)) as advance:
        for name, facts in expected.items():
            advance.note = name
            rows.append(_checked(Entry(name, folder, facts, unsafe_local)))
            advance()
    return rows


def table(rows: Sequence[Check]) -> list[tuple[str, ...]]:
    """Formats the rows as text, a header first: entry, items, published, ours, difference, verdict, note."""
    header = ("entry", "items", "published", "ours", "difference", "", "checked")
    lines: list[tuple[str, ...]] = [header]
    for row in rows:
        shown = [" / ".join(map(_figure, part)) for part in (row.published, row.ours)]
        difference = " / ".join("-" if part is None else f"{part:+.2g}" for part in row.difference)
        lines.append((row.entry, str(row.items), *shown, difference, "ok" if row.within else "OUT", row.note))
    return lines


def _checked(entry: Entry) -> Check:
    try:
        if not isinstance(entry.expected, Mapping) or "published" not in entry.expected:
            raise DataError("expected.json has no published figure.")
        families = [prefix for prefix in FAMILIES if entry.name.startswith(prefix)]
        if not families:
            raise DataError(f"the name must begin with a family: {', '.join(FAMILIES)}.")
        return FAMILIES[max(families, key=len)](entry)
    except RlifError as error:
        return Check(entry.name, 0, (), (), False, first_line(error).rstrip("."))
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # rows of another layout than the family's
        logger.warning("%s cannot be checked", entry.name, exc_info=True)
        return Check(entry.name, 0, (), (), False, f"{type(error).__name__}: {first_line(error)}".rstrip("."))


def _zeroeval(entry: Entry) -> Check:
    kind = entry.name.partition("/")[0].removeprefix("zeroeval_")
    problems = {problem.id: problem for problem in load_zeroeval(kind, "test", None, None)}
    rows = check_ids(entry.read(), "id", problems)
    equal = text_equal if kind == "crux" else first_number_equal
    answers = [json_answer(row["output"], boxed="Llama-3.1" in entry.name.rpartition("/")[2]) for row in rows]
    golds = [problems[str(row["id"])].gold or "" for row in rows]
    right = [answer is not None and equal(answer, gold) for answer, gold in zip(answers, golds, strict=True)]
    note = f"no answer in {100 * answers.count(None) / len(rows):.2f} %"
    return entry.check(len(rows), [percent(right)], [entry.expected["published"]], note=note)


def _cruxeval_labels(entry: Entry) -> Check:
    return _cruxeval(entry, entry.read(".generations.json.gz"), entry.read(".labels.json.gz"))


def _cruxeval_scored(entry: Entry) -> Check:
    scored = entry.read(".json.gz")["completion_scored"]
    return _cruxeval(entry, scored["raw_generations"], scored["raw_scored_generations"])


def _cruxeval(entry: Entry, answers: Mapping[str, list[str]], labels: Mapping[str, list[bool]]) -> Check:
    """Checks pass@1. With fewer labels than answers, the published run left out answers that repeat the call."""
    problems = {problem.id: problem for problem in find_task("cruxeval.original").load("test")}
    check_ids([{"id": key} for key in answers], "id", problems)
    graded: dict[str, list[str]] = {}
    for key, verdicts in labels.items():
        call, given = f"f({problems[key].data['input']})", answers[key]
        graded[key] = [text for text in given if len(given) == len(verdicts) or call not in text]
    if set(graded) != set(answers) or any(len(graded[key]) != len(verdicts) for key, verdicts in labels.items()):
        raise DataError("answers and labels are not of the same samples.")
    owners = [problems[key] for key, texts in graded.items() for _ in texts]
    flat = [text for texts in graded.values() for text in texts]
    right = _code_task("cruxeval.original").judge(owners, flat, unsafe_local=entry.unsafe_local)
    labelled = [label for key in graded for label in labels[key]]
    same = sum(map(operator.eq, right, labelled))
    verdicts_left = iter(right)
    shares = [percent([*islice(verdicts_left, len(texts))]) for texts in graded.values() if texts]
    ours = sum(shares) / len(shares)
    note = f"{same} of {len(labelled)} verdicts as labelled"
    sound = same >= AGREEMENT * len(labelled)
    return entry.check(len(answers), [ours], [entry.expected["published"]], sound=sound, note=note)


def _evalplus(entry: Entry) -> Check:
    """Checks pass@1 on the original inputs, and on EvalPlus' where those are there."""
    name = entry.name.partition("_")[0]
    published = [entry.expected["published"][key]["pass@1"] for key in (name, f"{name}+")]
    rows, labels = entry.read(".generated.jsonl.gz", ".generated.jsonl"), entry.read(".labels.json", ".labels.json.gz")
    ours: list[float | None] = []
    notes: list[str] = []
    sound = True
    for level, protocol in enumerate(EVALPLUS[name]):
        try:
            problems = {problem.id: problem for problem in find_task(protocol).load("test")}
        except RlifError as error:
            if protocol != "humaneval.plus":
                raise
            ours.append(None)
            notes.append(f"plus is not checked: {first_line(error).rstrip('.')}")
            continue
        owners = [problems[row["task_id"]] for row in check_ids(rows, "task_id", problems)]
        answers = [row["completion"] for row in rows]
        verdicts = _code_task(protocol).judge(owners, answers, unsafe_local=entry.unsafe_local)
        labelled = [all(label == "pass" for label in labels[row["task_id"]][: level + 1]) for row in rows]
        other = [row["task_id"] for row, one, label in zip(rows, verdicts, labelled, strict=True) if one != label]
        sound = sound and len(other) <= (1 - AGREEMENT) * len(rows)
        agreed = f"{len(rows) - len(other)} of {len(rows)}"
        notes.append(f"{('base', 'plus')[level]}: {agreed} verdicts as labelled{_named(other)}")
        ours.append(percent(verdicts))
    return entry.check(len(rows), ours, published, sound=sound, note="; ".join(notes))


def _livecodebench(entry: Entry) -> Check:
    """Checks one side where hidden tests are missing: what passed all passes ours, what failed one fails that one."""
    rows = check_ids(entry.read(), "question_id")
    differ = [row["question_id"] for row in rows if (fenced_code(row["output"]) or "") != row["code"]]
    tests: dict[str, Problem] = {}
    for path in sorted((Path(os.environ["RLIF_DATA"]) / "livecodebench").glob("*.jsonl*")):
        problems = find_task("livecodebench").load("v6", source=str(path))
        tests |= {problem.id.rpartition("/")[2]: problem for problem in problems}
    tried = []
    for row in rows:
        problem = tests.get(str(row["question_id"]))
        if row["graded"] and problem is not None:
            tried.append((row, trials_of(row["code"], problem.data["tests"], problem.data["function"])))
        elif not row["graded"] and (test := _recorded_failure(row)):
            tried.append((row, trials_of(row["code"], [test])))
    verdicts = run_trials([trials for _, trials in tried], unsafe_local=entry.unsafe_local)
    wrong = [row["question_id"] for (row, _), ok in zip(tried, verdicts, strict=True) if ok != row["graded"]]
    passed = sum(bool(row["graded"]) for row, _ in tried)
    note = (
        f"the share labelled right, as hidden tests are not held; extraction is equal in {len(rows) - len(differ)} of"
        f" {len(rows)}; of {passed} labelled right whose tests are here and {len(tried) - passed} labelled wrong whose"
        f" failed test is recorded, {len(tried) - len(wrong)} come out as labelled{_named([*differ, *wrong])}"
    )
    ours = percent([bool(row["graded"]) for row in rows])
    return entry.check(len(rows), [ours], [entry.expected["published"]], sound=not differ and not wrong, note=note)


def _recorded_failure(row: Row) -> Test | None:
    """Returns the test that a program failed, if it was recorded in full.

    None for a program that printed nothing and starts threads: the harness does not wait for those, a process does.
    """
    facts = row.get("metadata") or {}
    facts = json.loads(facts) if isinstance(facts, str) else facts
    test = {"input": str(facts.get("inputs")), "output": str(facts.get("expected"))}
    whole = "inputs" in facts and "expected" in facts and not any(CUT in text for text in test.values())
    printed = facts.get("error_code") == -2 and facts.get("error_message") != "Wrong Answer"
    early = not facts.get("output") and "Thread" in row["code"]
    return test if whole and printed and not early else None


def _mmlu_pro(entry: Entry) -> Check:
    problems = {problem.id.rpartition("/")[2]: problem for problem in find_task("mmlu_pro.lighteval").load("test")}
    rows = check_ids(entry.read(), "question_id", problems)
    hits = [row for row in rows if CHOICE_SENTENCE.search(row["output"] or "")]
    agree = [choice_letter(row["output"]) == row["pred"] for row in hits]
    nulls = sum(row["pred"] is None for row in rows)
    # A run with null where the first rule finds no letter has it there alone. Others go on by the second and third
    # rule, and then draw a letter. If most of theirs are what the published script draws, all must be.
    others = [
        _is_letter_of(row, problems[str(row["question_id"])])
        for row in rows
        if not CHOICE_SENTENCE.search(row["output"] or "")
    ]
    whole = nulls == len(others) or (nulls == 0 and (all(others) or sum(others) < MOST * len(others)))
    note = f"the first of three rules finds a letter in {len(hits)} of {len(rows)}; {sum(agree)} are the stored ones"
    sound = bool(hits) and all(agree) and whole
    return entry.check(len(rows), [percent(agree)], [100.0], sound=sound, note=note)


def _is_letter_of(row: Row, problem: Problem) -> bool:
    """Checks a stored letter by all three rules; a drawn one may be of a form of the question that had more options."""
    letter = choice_letter(row["output"] or "")
    return row["pred"] in (
        [letter] if letter else [draw(n) for n in range(len(problem.data["options"]), len(LETTERS) + 1)]
    )


def _alpaca_eval(entry: Entry) -> Check:
    rows = entry.read()
    annotations = [win_rate.Annotation(row["index"], row["preference"], row["len_1"], row["len_2"]) for row in rows]
    difficulty = "positional" if len(rows) < ALPACA_ITEMS else "instruction"
    rates = win_rate.raw_win_rate(annotations), win_rate.length_controlled(annotations, difficulty)
    ours = [None if math.isnan(rate.share.mean) else rate.share.mean for rate in rates]
    note = f"difficulty by {'instruction' if len(rows) == ALPACA_ITEMS else 'position, as upstream has it'}"
    return entry.check(len(rows), ours, entry.expected["published"], note=note)


def _gsm8k_labelled(entry: Entry) -> Check:
    rows = entry.read()
    found = [(row["ground_truth"], part) for row in rows for part in row.values() if isinstance(part, dict)]
    pairs = [(_last_line(part["solution"]), _last_line(gold)) for gold, part in found]
    agree = [right == part["is_correct"] for right, (_, part) in zip(equal_all(pairs), found, strict=True)]
    note = f"{sum(agree)} of {len(agree)} verdicts as labelled"
    return entry.check(len(agree), [percent(agree)], [100.0], sound=all(agree), note=note)


def _math500(entry: Entry) -> Check:
    rows = entry.read(".jsonl", ".jsonl.gz")
    right = equal_all([(last_boxed(row["solution"]) or "", row["answer"]) for row in rows])
    published = float(entry.expected["published"])
    return entry.check(len(rows), [float(sum(right))], [published], note="worked solutions that grade as right")


FAMILIES: dict[str, Callable[[Entry], Check]] = {
    "zeroeval_": _zeroeval,
    "cruxeval_o/": _cruxeval_labels,
    "cruxeval_": _cruxeval_scored,
    "humaneval_": _evalplus,
    "mbpp_": _evalplus,
    "lcb_": _livecodebench,
    "mmlu_pro/": _mmlu_pro,
    "alpaca_eval/": _alpaca_eval,
    "gsm8k_labelled": _gsm8k_labelled,
    "math500_": _math500,
}


def _code_task(name: str) -> CodeTask:
    task = find_task(name)
    assert isinstance(task, CodeTask)
    return task


def _named(ids: Sequence[str]) -> str:
    return f" (not {', '.join(map(str, ids[:5]))}{' ...' if len(ids) > 5 else ''})" if ids else ""


def _last_line(solution: str) -> str:
    """Extracts the answer of a worked solution of GSM8K, after "A: "."""
    return solution.rpartition("A:")[2].strip().replace(",", "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _home_of(folder: Path) -> Path:
    """Finds the folder of problems for a folder of checks."""
    parent, named = folder.resolve().parent, os.environ.get("RLIF_DATA")
    has_problems = any((parent / name).is_dir() for name in HOMES)
    return Path(named) if named and not has_problems else parent


@contextmanager
def _data_at(folder: Path) -> Iterator[None]:
    """Makes tasks read from this folder within the context."""
    before = os.environ.get("RLIF_DATA")
    os.environ["RLIF_DATA"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["RLIF_DATA"]
        else:
            os.environ["RLIF_DATA"] = before
