"""Draws the samples of a round and measures the rewards of the recipe on them.

`whole` draws N completions of each problem, as `rlif select` does, into samples.jsonl. `measured` adds `reward` and
every reward by name: token signals at temperature 1 whatever temperature the samples were drawn at, group signals and
graders as in online training. One reward is taken as it is, several are mixed as `rlif.rewards.mixing` says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from rlif.config.rounds import rounds_read_gold
from rlif.engines.rounds.examples import Round, by_groups
from rlif.errors import DataError
from rlif.files.jsonl import Row
from rlif.graders import Batch
from rlif.rewards.equivalence import load_equivalence
from rlif.rewards.measuring import Values, mean, measure_groups, measure_rows
from rlif.rewards.mixing import nanstd, recipe_mixer
from rlif.rewards.terms import Term, kind_of, recipe_terms
from rlif.sampling.sampler import token_chars
from rlif.selection.drawing import Drawing
from rlif.selection.samples import GroupSampler
from rlif.signals import SIGNALS
from rlif.tasks.labels import is_labelled
from rlif.types import Group


def token_signals(weights: Mapping[str, Any]) -> list[str]:
    """Names the token signals among rewards."""
    return [name for name in weights if kind_of(name) == "token"]


def whole(round_: Round) -> list[Row]:
    """Draws N whole completions of each problem; a killed process's batches are read back."""
    every = any(name != "self_certainty" for name in token_signals(round_.recipe.weights))
    graded = rounds_read_gold(round_.recipe) or not round_.task.runs_code
    sampler = GroupSampler(
        round_.scorer, round_.task, round_.decoding, round_.prompt, every_signal=every, graded=graded, keep_ids=True
    )
    drawing = Drawing(sampler, round_.problems)
    # A run folder may be moved, and the weights are known by their hash.
    rows, _ = drawing.draw(round_.folder, {"round": round_.number}, {"model": round_.recipe.model})
    return rows


def measured(round_: Round, rows: Sequence[Row]) -> list[Row]:
    """Adds to each row every reward of the recipe by name, and `reward`; what a row has stays.

    A value is None where it cannot be measured. Rows of problems that are not the round's own have token signals only.
    """
    groups = [group for group in by_groups(rows) if group[0]["id"] in round_.by_id]
    known = [row for group in groups for row in group]
    form = round_.prompt.messages if round_.recipe.chat else round_.prompt.text
    terms = recipe_terms(round_.recipe, prompt=form(round_.problems[0].prompt))
    values = {term.name: _column(round_, term, groups) for term in terms}
    weights = {name: weight.at(0) for name, weight in round_.recipe.weights.items()}
    if sum(map(bool, weights.values())) == 1:
        (name,) = [name for name, weight in weights.items() if weight]
        reward = [None if value is None else weights[name] * value for value in values[name]]
    else:
        reward = _mixed(round_, groups, values, weights)
    found = {
        id(row): {name: column[i] for name, column in values.items()} | {"reward": reward[i]}
        for i, row in enumerate(known)
    }
    alone = dict.fromkeys((*weights, "reward"))
    if len(weights) == 1 and next(iter(weights)) in SIGNALS:
        name = next(iter(weights))
        return [found.get(id(row), alone | {"reward": row.get(name)}) | row for row in rows]
    return [found.get(id(row), alone) | row for row in rows]


def _column(round_: Round, term: Term, groups: Sequence[Sequence[Row]]) -> list[float | None]:
    """Measures a reward of whole groups, in the order of their rows."""
    rows = [row for group in groups for row in group]
    if term.kind == "token":
        values = [row[term.name] for row in rows]
    elif term.kind == "group":
        values = [*chain(*measure_groups([term], _as_groups(round_, term, groups), round_.task)[term.name])]
    else:
        values = measure_rows([term], None, _batch(round_, rows))[term.name]
    takes = [term.takes(is_labelled(round_.task, round_.problem(row["id"]))) for row in rows]
    return [value if taken else None for value, taken in zip(values, takes, strict=True)]


def _as_groups(round_: Round, term: Term, groups: Sequence[Sequence[Row]]) -> list[Group]:
    equivalence = round_.recipe.equivalence if term.name == "semantic_entropy" else None
    cluster_texts = load_equivalence(equivalence) if equivalence else None
    return [
        Group(
            prompt=round_.problem(group[0]["id"]).text,
            completions=[row["completion"] for row in group],
            answers=[row["answer"] for row in group],
            equal=round_.task.equal,
            cluster_texts=cluster_texts,
        )
        for group in groups
    ]


def _batch(round_: Round, rows: Sequence[Row]) -> Batch:
    problems = [round_.problem(row["id"]) for row in rows]
    return Batch(
        prompts=[shown_prompt(round_, row) for row in rows],
        completions=[
            [{"role": "assistant", "content": row["completion"]}] if round_.recipe.chat else row["completion"]
            for row in rows
        ],
        texts=[row["completion"] for row in rows],
        completion_ids=[row["completion_ids"] for row in rows],
        answers=[row["answer"] for row in rows],
        task=round_.task,
        problems=problems,
        step=round_.number,  # random rewards differ by round
        seed=round_.recipe.seed,
    )


def _mixed(
    round_: Round, groups: Sequence[Sequence[Row]], values: Values, weights: Mapping[str, float]
) -> list[float | None]:
    """Scales each reward within its group, and adds them by weight; NaN fills up groups of fewer samples."""
    size = max(map(len, groups), default=0)
    columns = {}
    for name, column in values.items():
        rest, lines = iter(column), []
        for group in groups:
            line = [math.nan if (value := next(rest)) is None else value for _ in group]
            lines.append(line + [math.nan] * (size - len(line)))
        columns[name] = torch.tensor(lines, dtype=torch.float64)
    scaled = recipe_mixer(round_.recipe).columns(columns, weights)
    total_PG = torch.stack([weights[name] * scaled[name] for name in weights if weights[name]]).sum(0)
    found = [total_PG[g, i].item() for g, group in enumerate(groups) for i in range(len(group))]
    return [None if math.isnan(value) else value for value in found]


def statistics(round_: Round, rows: Sequence[Row]) -> dict[str, float]:
    """Computes what is logged of the samples of a round: means and lengths.

    Where the reward chooses, it and its spread within groups are logged as well, and the guard reads them.
    """
    if not rows:
        raise DataError("a round drew no sample.")
    found = {name: mean([row.get(name) for row in rows]) for name in round_.recipe.weights}
    found["self_certainty"] = mean([row.get("self_certainty") for row in rows])
    rounds = round_.recipe.rounds
    if rounds is None or rounds.choose == "surest":
        groups = [[math.nan if row["reward"] is None else row["reward"] for row in group] for group in by_groups(rows)]
        spreads = [nanstd(torch.tensor(group, dtype=torch.float64), 0).item() for group in groups]
        found["reward"] = mean([row["reward"] for row in rows])
        found["reward_spread"] = mean([None if math.isnan(spread) else spread for spread in spreads])
    lengths = [row["tokens"] for row in rows]
    return {
        **found,
        "unscorable": sum(row["reward"] is None for row in rows) / len(rows),
        "completion_length": sum(lengths) / len(rows),
        "completion_length_min": min(lengths),
        "completion_length_max": max(lengths),
        "truncated": sum(bool(row["truncated"]) for row in rows) / len(rows),
    }


def shown_prompt(round_: Round, row: Row) -> Any:
    """Returns the prompt of a row as a conversation or text: its own tokens decoded where it has its own."""
    if "prompt_ids" in row:
        return round_.scorer.tokenizer.decode(row["prompt_ids"])
    form = round_.prompt.messages if round_.recipe.chat else round_.prompt.text
    return form(round_.problem(row["id"]).prompt)


def kept_rows(round_: Round, rows: Sequence[Row], weights: Sequence[str]) -> list[Row]:
    """Returns rows as the run folder keeps completions."""
    return [
        {
            "prompt": shown_prompt(round_, row),
            "completion": row["completion"],
            "prompt_ids": round_.prompt_ids(row),
            "completion_ids": row["completion_ids"],
            "token_chars": token_chars(round_.scorer.tokenizer, row["completion_ids"], row["completion"]),
            "truncated": bool(row["truncated"]),
            "rewards": {name: row.get(name) for name in weights},
            "reward": row["reward"],
            "problem": row["id"],
            "answer": row["answer"],
        }
        for row in rows
    ]
