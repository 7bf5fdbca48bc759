"""Times what surrounds a model: votes and graders, choosing among samples, and the report of a long run.

python benchmarks/looking.py --out results/bench-looking
"""

from __future__ import annotations

import random
import resource
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import Lap, Spread, options, spread, table, timed, write

import rlif
from rlif.answers.equality import _at_once, _decide, _stop_workers
from rlif.files.yaml import write_yaml
from rlif.graders import Batch
from rlif.graders.accuracy import accuracy
from rlif.runs.folder import Run, resolved
from rlif.signals import GROUP_SIGNALS, GroupSignal
from rlif.tasks import Task
from rlif.types import Group, Problem

GROUP, AIM = 8, 10_000
STEPS, KEPT = 10_000, 8
Row = dict[str, Any]

# The answers in group n, by task. The first two expressions are equal.
ANSWERS: dict[str, Callable[[int], list[str]]] = {
    "clock": lambda n: ["nine", "two", "five"],
    "math, whole numbers": lambda n: [str(n), str(n + 1), str(2 * n)],
    "math, expressions": lambda n: [f"\\frac{{{n}}}{{2}}", f"{n / 2}", f"x^2+{n}", f"{n}\\sqrt{{3}}"],
}


def task_of(what: str) -> Task:
    return rlif.TASKS[what.partition(",")[0]]


def groups(what: str, completions: int, lap: int) -> list[Group]:
    """Makes groups whose completions give one of a few answers, or none. Each lap has other groups."""
    rng, found = random.Random(lap), []
    for n in range(lap * completions, lap * completions + completions // GROUP):
        answers = [rng.choice([*ANSWERS[what](n), None]) for _ in range(GROUP)]
        texts = [f"First add one. The answer is \\boxed{{{answer}}}." if answer else "?" for answer in answers]
        found.append(Group("What time is it?", texts, answers, task_of(what).equal))
    return found


def vote(signal: GroupSignal, task: Task, of: Sequence[Group]) -> None:
    """Computes a signal of each group as training does: answers are first compared on all cores."""
    task.compare_ahead([group.answers for group in of])
    for group in of:
        signal(group)


def grade(task: Task, of: Sequence[Group]) -> None:
    """Extracts and grades the answers of one group after another. Gold is the first answer in the group."""
    for group in of:
        gold = next((answer for answer in group.answers if answer), "?")
        problems = [Problem("p", group.prompt, gold)] * GROUP
        texts = list(group.completions)
        extracted = [task.extract(text) for text in texts]
        accuracy(Batch([""] * GROUP, texts, texts, [[]] * GROUP, extracted, task, problems))


def votes(rounds: int, completions: int) -> list[Row]:
    """Measures completions per second of votes and graders."""
    rows = []
    for what in ANSWERS:
        count = completions // 100 if "expressions" in what else completions  # sympy is slow
        laps = [groups(what, count, lap) for lap in range(rounds + 1)]  # the first is for warming up
        task = task_of(what)
        work: dict[str, Callable[[Sequence[Group]], None]] = {
            name: partial(vote, GROUP_SIGNALS[name], task) for name in ("plurality_vote", "self_consistency")
        }
        for name, run in (work | {"accuracy": partial(grade, task)}).items():
            forget()
            _, *found = [timed(partial(run, of)) for of in laps]
            rows.append({"what": name, "task": what, "completions": count, "per_second": rates(count, found)})
    return rows


def forget() -> None:
    """Ends the processes that compare, and clears the caches of results."""
    _at_once.cache_clear()
    _decide.cache_clear()
    _stop_workers()


def rates(count: int, laps: Sequence[Lap]) -> Spread:
    """Computes completions per second of wall time."""
    return spread([count / lap.wall for lap in laps])


def choosing(rounds: int, count: int) -> list[Row]:
    """Measures seconds to choose among `count` samples, by rule and samples per problem."""
    rng, rows = random.Random(0), []
    for n in (16, 64):
        samples = [
            {"id": f"p{i // n}", "answer": rng.choice([*"abcdef", None]), "self_certainty": rng.gauss(6, 1)}
            for i in range(count)
        ]
        for rule in ("borda", "plurality", "self_certainty", "weighted_vote"):
            laps = [timed(lambda samples=samples, rule=rule: rlif.select(samples, rule)) for _ in range(rounds)]
            rows.append({"rule": rule, "n": n, "samples": count, "seconds": spread([lap.wall for lap in laps])})
    return rows


def long_run(folder: Path, steps: int) -> Path:
    """Writes a run folder with metrics and completions of each step, and a hundred evaluations."""
    rng, run = random.Random(0), Run(folder)
    recipe = rlif.load_recipe("demo-long", [f"training.max_steps={steps}"])
    write_yaml(resolved(recipe, "bench"), folder / "recipe.yaml")
    for step in range(1, steps + 1):
        run.append_metrics(
            {"step": step, "loss": 0.0, "reward": 6 + rng.random(), "self_certainty": 6 + rng.random(), "kl": 1e-3,
             "reward_spread": 0.3, "completion_length": 20.0 + rng.random(), "truncated": 0.05, "entropy": 0.4,
             "clip_ratio": 0.0, "grad_norm": 0.5, "tokens": 1000.0 * step, "step_seconds": 0.5, "path": "decode"}
        )  # fmt: skip
        run.write_completions(step, (_completion(step, i, rng) for i in range(KEPT)))
        if step % (steps // 100 or 1) == 0:
            records = [_record(i, rng) for i in range(64)]
            right = sum(record["right"] for record in records) / len(records)
            scores = {"task": "clock", "accuracy": {"n": 64, "mean": right, "low": right, "high": right}}
            run.write_evaluation(step, "clock", scores | {"self_certainty": 6.0, "completion_length": 20.0}, records)
    run.write_summary({"steps": steps, "seconds": 0.5 * steps, "path": "decode", "extra_passes": 0})
    return folder


def _completion(step: int, number: int, rng: random.Random) -> Row:
    pieces = ["First", " add", " six", ",", " now", " two", ".", " It", " is", " \\boxed{nine}", "."]
    return {
        "step": step, "problem": f"clock/{number}", "prompt": f"Problem {number}?", "completion": "".join(pieces),
        "completion_ids": list(range(len(pieces))), "token_chars": [len(piece) for piece in pieces],
        "token_self_certainty": [round(rng.uniform(4, 8), 2) for _ in pieces], "truncated": False, "answer": "nine",
        "right": number % 2 == 0, "reward": 6.0 + number / 10, "advantage": number / 10 - 0.4,
    }  # fmt: skip


def _record(number: int, rng: random.Random) -> Row:
    right = rng.random() < 0.7
    return {
        "id": f"clock/{number}", "sample": 0, "completion": "It is \\boxed{nine}.", "answer": "nine", "right": right,
        "self_certainty": rng.gauss(6.3 if right else 6.0, 0.1), "tokens": 12, "truncated": False,
    }  # fmt: skip


def reporting(steps: int) -> Row:
    """Measures the report of a long run: seconds, size of the page, and growth of the process."""
    with tempfile.TemporaryDirectory() as name:
        folder = long_run(Path(name), steps)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lap = timed(lambda: rlif.report([folder]))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        page = (folder / "report.html").stat().st_size / 2**20
    return {"steps": steps, "wall": lap.wall, "cpu": lap.cpu, "page_mib": page, "grown_mib": grown}


def summary(voted: Sequence[Row], chosen: Sequence[Row], page: Row) -> list[str]:
    """Writes the tables, and whether the aim is met."""
    lines = ["## Votes and graders, completions per second", ""]
    lines += table(
        ["what", "answers of", "per second"], [[r["what"], r["task"], r["per_second"].show(0)] for r in voted]
    )
    lines += ["", "## Choosing, seconds", ""]
    rows = [[r["rule"], f"{r['samples']:,}", r["n"], r["seconds"].show(2)] for r in chosen]
    lines += table(["rule", "samples", "per problem", "seconds"], rows)
    lines += ["", "## The report", ""]
    lines += [
        f"{page['steps']:,} steps with {KEPT} completions kept of each: {page['wall']:.1f} s ({page['cpu']:.1f} s of"
        f" CPU time), a page of {page['page_mib']:.1f} MiB, {page['grown_mib']:.0f} MiB of memory more than before.",
        "",
    ]
    slow = [f"{r['what']} on {r['task']}" for r in voted if r["what"] != "accuracy" and r["per_second"].median < AIM]
    return [
        *lines,
        f"- Aim: {AIM:,} completions per second for votes: {'missed by ' + ', '.join(slow) if slow else 'met'}.",
    ]


def main() -> None:
    parser = options(__doc__, "looking")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--completions", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    voted, chosen, page = (
        votes(args.rounds, args.completions),
        choosing(args.rounds, args.samples),
        reporting(args.steps),
    )
    result = {"votes": voted, "choosing": chosen, "report": page}
    command = f"python benchmarks/looking.py --rounds {args.rounds} --out {args.out}"
    write(args.out, "Votes, choosing, reports", command, summary(voted, chosen, page), result)


if __name__ == "__main__":
    main()
