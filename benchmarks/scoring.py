"""Measures time and memory of `rlif.score_completions`, beside keeping all logits and the least possible work.

    ours    score_completions: log-probability, vocabulary mean and entropy of each completion token
    full    the same three numbers from `model(...).logits`, with all logits kept in float32
    limit   the body's forward pass and one product with the head, which any scoring needs

python benchmarks/scoring.py --out results/bench-scoring
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from measure import growth, options, ratio, spread, table, take_turns, write
from memory import MIB, watch
from shapes import build, forward_flops

from rlif import score_completions
from rlif.scoring.statistics import LOGITS_HELD

PROMPT = 32
TIME_AIM, MEMORY_AIM = 1.05, 1 / 20
AXES = ("B", "T", "V")
REAL = ("qwen2.5-0.5b-2-layers", "qwen2.5-0.5b", "qwen2.5-1.5b")
LARGEST = (4, 3584)  # B and T of the memory aim
V = 151_936  # of Qwen2.5
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Names one size: B completions of T tokens under a model."""

    shape: str
    B: int
    T: int
    V: int
    dtype: str = "float32"
    device: str = "cpu"


def full_logits(model: Any, ids_BL: torch.Tensor, T: int) -> dict[str, torch.Tensor]:
    """Computes the statistics from [B, L, V] logits."""
    logits_BTV = model(input_ids=ids_BL, use_cache=False).logits[:, -T - 1 : -1].float()
    logprob_BTV = logits_BTV.log_softmax(-1)
    return {
        "logprob_BT": logprob_BTV.gather(-1, ids_BL[:, -T:, None]).squeeze(-1),
        "mean_logprob_BT": logprob_BTV.mean(-1),
        "entropy_BT": -(logprob_BTV.exp() * logprob_BTV).sum(-1),
    }


def least(model: Any, ids_BL: torch.Tensor, T: int) -> None:
    """Runs the body, and the head on the completions in chunks as scoring does; discards the result."""
    hidden_BLH = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    for hidden_CH in hidden_BLH[:, -T - 1 : -1].flatten(0, 1).split(max(1, LOGITS_HELD // head.weight.shape[0])):
        head(hidden_CH)


def contestants(model: Any, case: Case) -> dict[str, Callable[[], Any]]:
    """Makes the three that take turns, on the same random completions."""
    torch.manual_seed(0)
    ids_BL = torch.randint(2, case.V, (case.B, PROMPT + case.T), device=case.device)
    rows = ids_BL.tolist()
    prompts, completions = [row[:PROMPT] for row in rows], [row[PROMPT:] for row in rows]
    run = torch.no_grad()
    return {
        "ours": lambda: score_completions(model, prompts, completions, batch_size=case.B),
        "full": run(lambda: full_logits(model, ids_BL, case.T)),
        "limit": run(lambda: least(model, ids_BL, case.T)),
    }


def peaks(turns: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Measures the peak memory of each, in MiB above what was allocated before."""
    found = {}
    for name, work in turns.items():
        with watch(device) as memory:
            work()
        found[name] = memory.peak / MIB
    return found


def check(turns: dict[str, Callable[[], Any]], dtype: str) -> None:
    """Checks that ours and full logits give the same numbers."""
    ours, full = turns["ours"](), turns["full"]()
    tolerance = 1e-3 if dtype == "float32" else 0.1
    for name, values_BT in full.items():
        torch.testing.assert_close(getattr(ours, name), values_BT, atol=tolerance, rtol=0)


def measure(case: Case, rounds: int) -> Row:
    """Measures one size: time by turns, peak memory, and floating-point operations by arithmetic."""
    model = build(case.shape, case.dtype, case.device, vocab_size=case.V)
    turns = contestants(model, case)
    check(turns, case.dtype)
    laps = take_turns(turns, rounds, case.device)
    tokens = case.B * case.T
    flops = forward_flops(model, case.B * (PROMPT + case.T), PROMPT + case.T, tokens)
    row = {
        **vars(case),
        "seconds": {name: spread([lap.wall for lap in laps[name]]) for name in laps},
        "cpu_seconds": {name: spread([lap.cpu for lap in laps[name]]) for name in laps},
        "ours/limit": {clock: ratio(laps, "ours", "limit", clock) for clock in ("wall", "cpu")},
        "ours/full": {clock: ratio(laps, "ours", "full", clock) for clock in ("wall", "cpu")},
        "flops": flops,
        "peak_mib": peaks(turns, case.device),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def at_the_largest(shape: str, dtype: str, device: str, B: int, T: int, V: int) -> Row:
    """Measures our peak memory at the size of the aim; that of the logits alone is by arithmetic."""
    model = build(shape, dtype, device, vocab_size=V)
    work = contestants(model, Case(shape, B, T, V, dtype, device))["ours"]
    with watch(device) as memory:
        work()
    logits = B * T * V * 4 / MIB
    return {
        "shape": shape, "B": B, "T": T, "V": V, "peak_mib": memory.peak / MIB, "logits_mib": logits,
        "share": memory.peak / MIB / logits,
        "largest_mib": None if memory.largest is None else memory.largest / MIB,
    }  # fmt: skip


def cases(shape: str, largest_v: int, dtype: str, device: str, scale: int) -> dict[str, list[Case]]:
    """Lists sizes along each axis, with the other axes fixed; `scale` multiplies T."""

    def case(B: int, T: int, V: int) -> Case:
        return Case(shape, B, T * scale, V, dtype, device)

    middle_v = min(32_000, largest_v)
    return {
        "B": [case(B, 256, middle_v) for B in (1, 4, 16)],
        "T": [case(2, T, middle_v) for T in (128, 512, 2048)],
        "V": [case(4, 256, V) for V in (8_000, 32_000, 151_936) if largest_v >= V],
    }


def exponents(rows: Sequence[Row], axis: str) -> list[str]:
    """Fits how time and memory of ours and of full logits grow along an axis."""
    sizes = [row[axis] for row in rows]
    cells = [axis, f"{sizes[0]:,} to {sizes[-1]:,}"]
    for name in ("ours", "full"):
        time = growth(sizes, [row["cpu_seconds"][name].median for row in rows])
        memory = growth(sizes, [row["peak_mib"][name] for row in rows])
        cells += [f"{time:.2f}", f"{memory:.2f}"]
    return cells


def summary(rows: dict[str, list[Row]], largest: Row) -> list[str]:
    """Writes the tables, and whether the aims are met."""
    every = [row for axis in rows.values() for row in axis]
    header = ["model", "B", "T", "V", "ours, s", "ours / full", "ours / limit", "ours / limit, CPU time"]
    header += ["peak MiB: ours, full, limit"]
    lines = table(header, [_line(row) for row in every])
    lines += ["", "## How it grows", "", "Exponents e of cost ~ size^e; CPU time and peak memory.", ""]
    header = ["axis", "from", "ours: time", "ours: memory", "full: time", "full: memory"]
    lines += table(header, [exponents(axis_rows, axis) for axis, axis_rows in rows.items() if axis in AXES])
    small = [_met(row) for axis in AXES for row in rows.get(axis, [])]
    real = [_met(row) for row in rows.get("model", [])]
    size = f"[{largest['B']}, {largest['T']:,}, {largest['V']:,}]"
    return [
        *lines,
        "",
        f"- Memory at {size}: {largest['peak_mib']:,.0f} MiB measured; the logits alone would be"
        f" {largest['logits_mib']:,.0f} MiB. That is 1/{1 / largest['share']:.0f}, the aim is 1/{1 / MEMORY_AIM:.0f}:"
        f" {'met' if largest['share'] <= MEMORY_AIM else 'missed'}.",
        f"- Time at most {TIME_AIM} of the limit (CPU time, median): met on {sum(small)} of {len(small)}"
        f" sizes of the small body, on {sum(real)} of {len(real)} real shapes.",
    ]


def _met(row: Row) -> bool:
    return row["ours/limit"]["cpu"].median <= TIME_AIM


def _line(row: Row) -> list[str]:
    peaks_mib = ", ".join(f"{row['peak_mib'][name]:,.0f}" for name in ("ours", "full", "limit"))
    limits = [row["ours/limit"][clock].show(2) for clock in ("wall", "cpu")]
    sizes = [row["shape"], row["B"], f"{row['T']:,}", f"{row['V']:,}"]
    return [*map(str, sizes), row["seconds"]["ours"].show(2), row["ours/full"]["wall"].show(2), *limits, peaks_mib]


def sweep(shape: str, largest_v: int, dtype: str, device: str, scale: int, rounds: int) -> dict[str, list[Row]]:
    """Measures every case, by axis."""
    by_axis = cases(shape, largest_v, dtype, device, scale)
    return {axis: [measure(case, rounds) for case in of_axis] for axis, of_axis in by_axis.items()}


def main() -> None:
    parser = options(__doc__, "scoring")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = sweep("wide-152k", V, "float32", "cpu", 1, args.rounds)
    rows["model"] = [measure(Case(shape, 2, 110, V), args.rounds) for shape in REAL]
    largest = at_the_largest("wide-152k", "float32", "cpu", *LARGEST, V)
    about = (
        "`wide` models have 2 layers and hidden 128: the product with the head is cheap there, but the work on its"
        " logits costs as much as in a large model. The last rows have the shapes of real models, one"
        " with two layers only."
    )
    command = f"python benchmarks/scoring.py --rounds {args.rounds} --out {args.out}"
    write(args.out, "Scoring alone", command, [about, "", *summary(rows, largest)], {"rows": rows, "largest": largest})


if __name__ == "__main__":
    main()
