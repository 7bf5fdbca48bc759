"""Probes a real model on the easy families before any training. Writes results/real-probe.json and .md.

    python scripts/real_probe.py draw      # 30 problems x 8 samples of each family; resumes after a kill
    python scripts/real_probe.py table     # from the drawn samples that are there, and results/real-probe.json
    python scripts/real_probe.py draw --base runs/real-base     # the base of the study, without solved examples;
    python scripts/real_probe.py table --base runs/real-base    # runs/real-base-probe, results/real-base-probe.json

Problems are of the training split with seed 1000. The small families have few others, so runs meet some of them;
held-out problems are never among them. Columns that need no label:

    answered    share of the completions with an answer
    cut         share of the completions that the limit of tokens cut off
    tokens      mean length
    disagree    share of the problems whose answers differ
    spread      mean over problems of the standard deviation of self-certainty, in nats
    pull        P(signal of a completion with its group's most frequent answer > of one with another), ties half, mean
                over the problems where both occur and one answer leads; as in `rlif probe`
    longer      P(self-certainty of a longer completion > of a shorter one) within problems

and columns that need gold, which judge the others and choose nothing:

    accuracy, pass@8, maj@8 (the most frequent answer), surest (the one of 8 with the largest self-certainty)
    AUROC within problems: P(signal of a right completion > of a wrong one), ties half, mean over the problems that have
    both
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from refusals import call
from scipy.stats import spearmanr

from rlif.answers.clusters import by_problem
from rlif.evaluation.scores import summarise
from rlif.files.atomic import replace_file
from rlif.files.jsonl import JsonLog
from rlif.intervals import Interval, proportion, t_interval
from rlif.sampling.protocol import decoding_of
from rlif.sampling.sources import weights_line, weights_of
from rlif.selection.drawing import Drawing
from rlif.selection.samples import GroupSampler
from rlif.selection.scorer import load_scorer
from rlif.tasks import find_task
from rlif.tasks.chat_template import OPEN
from rlif.tasks.easy import ALONE, FAMILIES, PREFIX

Row = Mapping[str, Any]
MODEL = "smollm2-135m"
TAUGHT = ("steps", "story", "larger", "capital_city")  # the families of real_base.py
PROBLEMS, SAMPLES, SEED = 30, 8, 1000
SIGNALS = (
    "self_certainty", "negative_entropy", "likelihood", "mean_token_confidence", "negative_entropy_sum",
    "likelihood_sum",
)  # fmt: skip
ENOUGH = 8  # problems with right and wrong samples, for a mean over families
SHORTNESS = "shortness"  # beside the signals: minus the number of tokens


def draw(runs: Path, families: Sequence[str], base: str | None = None) -> None:
    """Draws and scores the samples that the folder lacks, of SmolLM2 or of a base that needs no solved examples."""
    scorer = load_scorer(base or MODEL, chat=OPEN, window=None, dtype="float32", batch_size=64)
    for family in families:
        task = find_task(f"{PREFIX}{family}.{ALONE}" if base else f"{PREFIX}{family}")
        decoding = decoding_of(task, temperature=1.0, n=SAMPLES, seed=SEED)
        problems = task.load("train", limit=PROBLEMS, seed=SEED)
        rows, _ = Drawing(GroupSampler(scorer, task, decoding), problems).draw(runs / family, {"dtype": "float32"})
        print(family, len(rows), flush=True)


def higher(groups: Iterable[Sequence[Row]], signal: str, better: Callable[[Row, Sequence[Row]], bool | None]) -> Any:
    """Computes how often the better completion of a problem has the higher signal, ties half, over problems.

    Args:
        better: of a row and its group; None for rows, or whole groups, that are left out.

    Returns:
        The interval over the problems that have both kinds, as plain data; None without any.
    """
    values = []
    for group in groups:
        marked = [(better(row, group), _value(row, signal)) for row in group]
        good = [value for mark, value in marked if mark is True and value is not None]
        bad = [value for mark, value in marked if mark is False and value is not None]
        if good and bad:
            values.append(fmean((a > b) + (a == b) / 2 for a, b in itertools.product(good, bad)))
    return t_interval(values).within(0, 1).as_dict() if values else None


def _value(row: Row, signal: str) -> float | None:
    return -row["tokens"] if signal == SHORTNESS else row[signal]


def frequent(row: Row, group: Sequence[Row]) -> bool | None:
    """Tells whether a completion gives its group's most frequent answer; None without an answer or a leader."""
    counts = Counter(other["answer"] for other in group if other["answer"] is not None).most_common(2)
    if row["answer"] is None or len(counts) < 2 or counts[0][1] == counts[1][1]:
        return None
    return row["answer"] == counts[0][0]


def longer(groups: Iterable[Sequence[Row]], signal: str = "self_certainty") -> Any:
    """Computes how often the longer of two completions of a problem has the higher signal, over problems."""
    values = []
    for group in groups:
        pairs = [(a[signal], b[signal]) for a, b in itertools.permutations(group, 2) if a["tokens"] > b["tokens"]]
        pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
        if pairs:
            values.append(fmean((a > b) + (a == b) / 2 for a, b in pairs))
    return t_interval(values).within(0, 1).as_dict() if values else None


def digest(family: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Computes all columns of one family."""
    groups = [*by_problem(rows).values()]
    scores = summarise(rows)
    sure = [[row["self_certainty"] for row in group if row["self_certainty"] is not None] for group in groups]
    answers = [{row["answer"] for row in group if row["answer"] is not None} for group in groups]
    named = (*SIGNALS, SHORTNESS)
    return {
        "family": family,
        "kind": FAMILIES[family].kind,
        "problems": len(groups),
        "completions": len(rows),
        "answered": 1 - (scores.unanswered or 0),
        "cut": scores.truncated,
        "tokens": scores.completion_length,
        "disagree": fmean(len(each) > 1 for each in answers),
        "spread": fmean(stdev(values) for values in sure if len(values) > 1),
        "longer": longer(groups),
        "pull": {signal: higher(groups, signal, frequent) for signal in named},
        "accuracy": scores.accuracy.as_dict(),
        "pass@8": scores.pass_at[SAMPLES].as_dict(),
        "maj@8": scores.chosen[f"maj@{SAMPLES}"].as_dict(),
        "surest": proportion(sum(bool(surest(group)["right"]) for group in groups), len(groups)).as_dict(),
        "auroc": {signal: higher(groups, signal, lambda row, _: row["right"]) for signal in named},
        "most_frequent": Counter(row["completion"].strip() for row in rows).most_common(3),
    }


def surest(group: Sequence[Row]) -> Row:
    """Returns the completion with the largest self-certainty, the first one of several."""
    return max(group, key=lambda row: -math.inf if row["self_certainty"] is None else row["self_certainty"])


def eligible(found: Row) -> bool:
    """Tells whether a family can be trained on, by columns that need no label."""
    return found["answered"] >= 0.5 and found["disagree"] >= 0.5


def chosen(families: Sequence[Row]) -> list[str]:
    """Orders the eligible families by the lower bound of self-certainty's pull, without a label."""
    pulls = {f["family"]: Interval.read(f["pull"]["self_certainty"]) for f in families if eligible(f)}
    bounds = {name: pull.low for name, pull in pulls.items() if pull and pull.low is not None}
    return sorted(bounds, key=lambda name: -bounds[name])


def other_signal(found: Row) -> str:
    """Chooses a family's best signal beside self-certainty, without a label.

    Returns:
        The signal of the largest pull; "" where no group shows any.
    """
    pulls = {
        name: pull["mean"] for name, pull in found["pull"].items() if pull and name not in ("self_certainty", SHORTNESS)
    }
    return max(pulls, key=lambda name: pulls[name], default="")


def over_families(families: Sequence[Row], signal: str, minus: str | None = None) -> Interval:
    """Averages a signal's AUROC over the families where enough problems have right and wrong samples.

    Args:
        minus: a signal whose AUROC is subtracted, family by family.
    """
    known = [f["auroc"] for f in families if (f["auroc"][signal] or {"n": 0})["n"] >= ENOUGH]
    return t_interval([each[signal]["mean"] - (each[minus]["mean"] if minus else 0) for each in known])


def pull_and_auroc(families: Sequence[Row], signal: str) -> tuple[float, int]:
    """Computes Spearman's rank correlation of a signal's pull and its AUROC, and the number of families with both."""
    known = [(f["pull"][signal], f["auroc"][signal]) for f in families if f["pull"][signal] and f["auroc"][signal]]
    pairs = [(pull["mean"], auroc["mean"]) for pull, auroc in known if min(pull["n"], auroc["n"]) >= ENOUGH]
    if len(pairs) < 3:
        return math.nan, len(pairs)
    found: Any = spearmanr([pull for pull, _ in pairs], [auroc for _, auroc in pairs])
    return float(found.statistic), len(pairs)


def _over_families(families: Sequence[Row], named: Sequence[str]) -> list[str]:
    lines = [
        "",
        f"Over the families with at least {ENOUGH} such problems, with Student's interval over families, and the",
    ]
    lines[-1] += f" rank correlation of pull and AUROC over families with {ENOUGH} problems for both:"
    lines += ["", "| signal | AUROC | minus self-certainty's | pull and AUROC |", "|---|---|---|---|"]
    for name in named:
        mean, apart = over_families(families, name), over_families(families, name, "self_certainty")
        cells = [_share(mean.within(0, 1).as_dict()), "-" if name == "self_certainty" else _share(apart.as_dict())]
        correlation, count = pull_and_auroc(families, name)
        cells.append(f"{correlation:+.2f} ({count})" if count > 2 else "-")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def _share(found: Any, percent: bool = False) -> str:
    interval = Interval.read(found)
    if interval is None or interval.mean is None:
        return "-"
    if percent:
        return str(interval)
    bounds = "" if interval.low is None else f" [{interval.low:.2f}, {interval.high:.2f}]"
    return f"{interval.mean:.2f}{bounds} ({interval.n})"


def table(kept: Row) -> str:
    """Formats the kept columns as markdown."""
    families, order = kept["families"], chosen(kept["families"])
    free = [
        "family",
        "kind",
        "answered",
        "cut",
        "tokens",
        "disagree",
        "spread",
        "pull",
        "longer",
        "rank",
        "other signal",
    ]
    lines = [
        f"# What {kept['model']} can learn: the easy families before training",
        "",
        f"    python scripts/real_probe.py draw{kept['options']}; python scripts/real_probe.py table{kept['options']}",
        "",
        f"Families drawn so far: {len(families)} of {kept['planned']}. Weights: {kept['weights']}. Temperature 1,"
        f" {PROBLEMS} problems x {SAMPLES} samples each, seed {SEED}."
        " Brackets: 95 % intervals over problems. Parentheses: problems that enter. The script explains the columns.",
        "",
        "## Without labels",
        "",
        "Eligible: answered at least 50 %, disagree at least 50 %. The rank orders the eligible by the lower bound"
        " of self-certainty's pull. The other signal is the one with the largest pull beside it.",
        "",
        f"| {' | '.join(free)} |",
        "|---" * len(free) + "|",
    ]
    for f in families:
        name = f["family"]
        cells = [
            name,
            f["kind"],
            f"{f['answered']:.0%}",
            f"{f['cut']:.0%}",
            f"{f['tokens']:.1f}",
            f"{f['disagree']:.0%}",
        ]
        cells += [f"{f['spread']:.2f}", _share(f["pull"]["self_certainty"]), _share(f["longer"])]
        cells += [
            str(order.index(name) + 1) if name in order else "-",
            f"`{other}`" if (other := other_signal(f)) else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    named = (*SIGNALS, SHORTNESS)
    heads = ["family", "accuracy", "pass@8", "maj@8", "surest", *(f"`{name}`" for name in named)]
    lines += ["", "## With gold", "", "Accuracy of samples, and AUROC within problems of each signal.", ""]
    lines += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for f in families:
        shares = [_share(f[key], percent=True) for key in ("accuracy", "pass@8", "maj@8", "surest")]
        lines.append(f"| {' | '.join([f['family'], *shares, *(_share(f['auroc'][name]) for name in named)])} |")
    lines += _over_families(families, named)
    lines += ["", "## What the model says", "", "The three most frequent completions of each family.", ""]
    for f in families:
        said = "; ".join(f"{json.dumps(text, ensure_ascii=False)} {n}" for text, n in f["most_frequent"])
        lines.append(f"- {f['family']}: {said}")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "table"))
    parser.add_argument("--base", help="folder of the model of real_base.py; without it SmolLM2 with solved examples")
    parser.add_argument("--runs", type=Path, help="folder of the samples")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, help="default: all, or with --base those of real_base.py"
    )
    args = parser.parse_args()
    planned, name = (TAUGHT, "real-base-probe") if args.base else (FAMILIES, "real-probe")
    runs, kept_file = args.runs or Path("runs") / name, args.out / f"{name}.json"
    if args.what == "draw":
        draw(runs, args.families or [*planned], args.base)
        return
    kept = json.loads(kept_file.read_text(encoding="utf-8")) if kept_file.is_file() else {"families": []}
    found = {f["family"]: f for f in kept["families"]}
    for family in FAMILIES:
        rows = [row for _, row in JsonLog(runs / family / "samples.jsonl").rows()]
        if len(rows) == PROBLEMS * SAMPLES:
            found[family] = digest(family, rows)
    if not found:
        parser.error(f"no drawn family under {runs} and none in {kept_file}: run real_probe.py draw first")
    args.out.mkdir(parents=True, exist_ok=True)
    about = json.loads((Path(args.base) / "base.json").read_text(encoding="utf-8")) if args.base else {}
    kept = {
        "model": f"the base of real_base.py, from {MODEL}," if args.base else MODEL,
        "options": f" --base {args.base}" if args.base else "",
        "planned": len(planned),
        "weights": about.get("from") or kept.get("weights") or weights_line(weights_of(MODEL)),
        "families": [found[name] for name in FAMILIES if name in found],
    }
    replace_file(kept_file, json.dumps(kept, ensure_ascii=False, indent=1) + "\n")
    text = table(kept)
    replace_file(kept_file.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    call(main)
