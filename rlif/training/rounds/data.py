"""Makes what a round trains on: samples of the policy, their rewards, and what is chosen of them.

Files of a round are described in `rlif.engines.rounds.examples`.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlif.errors import DataError
from rlif.files.atomic import finite, is_number, read_object, replace_file, write_rows, writing
from rlif.files.jsonl import Row, different, plain
from rlif.guard.health import measure_health
from rlif.rewards.terms import reads_problems
from rlif.runs.phase import Phase
from rlif.training.prepare import PreparedRun
from rlif.training.session import write_verdicts
from rlif.types import Problem

if TYPE_CHECKING:
    from rlif.engines.rounds.examples import Built, Round

ROUND, KEPT, SETTINGS = "round.json", "kept.jsonl", "settings.json"


def build_round(prepared: PreparedRun, phase: Phase, number: int, model: Any, name: str) -> dict[str, Any]:
    """Samples, measures and chooses; writes what the round trains on, and returns what is known of it.

    Args:
        model: the policy, in evaluation mode.
        name: its folder or hub name.
    """
    from rlif.engines.rounds import sampling
    from rlif.engines.rounds.choices import CHOICES, SAMPLERS
    from rlif.engines.rounds.examples import Built, by_groups, write_examples
    from rlif.engines.rounds.given import rationalised

    recipe, rounds = prepared.recipe, prepared.recipe.rounds
    assert rounds is not None
    fresh = not any(phase.folder.iterdir())  # the time of work that was resumed is not known
    started = time.perf_counter()
    round_ = as_round(prepared, phase, number, model, name)
    _check_settings(phase, round_)
    rows = sampling.measured(round_, SAMPLERS[rounds.sample].draw(round_))
    more, counts = rationalised(round_, rows) if rounds.rationalise else ([], {})  # without rewards, which gold ignores
    built = CHOICES[rounds.choose].build(round_, by_groups([*rows, *more]))
    built = Built(built.examples, {**built.counts, **counts})
    seconds = round(time.perf_counter() - started, 3) if fresh else None
    _refuse_nothing(phase, round_, rows, built)
    facts = _facts(round_, rows, built) | {"sampling_seconds": seconds}
    kept = sampling.kept_rows(round_, rows[: recipe.keep_completions], list(recipe.weights))
    problems = {problem.id: problem for problem in prepared.problems}
    write_verdicts(prepared.task, [problems.get(row["problem"]) for row in kept], kept)
    with writing(phase.folder):
        write_examples(phase.folder, built.examples)
        write_rows(phase.folder / KEPT, kept)
        replace_file(phase.folder / ROUND, json.dumps(finite(facts), indent=2) + "\n")
    return facts


def as_round(prepared: PreparedRun, phase: Phase, number: int, model: Any, name: str) -> Round:
    """Gives a method the policy and the problems of a round."""
    from rlif.engines.rounds.examples import Round
    from rlif.engines.rounds.sampling import token_signals
    from rlif.files.own import is_own
    from rlif.sampling.sampler import Decoding
    from rlif.selection.scorer import Scorer

    recipe, rounds, options = prepared.recipe, prepared.recipe.rounds, prepared.options
    assert rounds is not None
    scorer = Scorer(
        model,
        prepared.tokenizer,
        chat=recipe.chat_template,
        batch_size=rounds.batch_size,
        window=recipe.confidence_window,
        name=name,
        also=tuple(name for name in token_signals(recipe.weights) if is_own(name)),
    )
    seed = seed_of(recipe.seed, number)
    decoding = Decoding(
        options["max_completion_length"],
        temperature=options["temperature"],
        top_p=options.get("top_p", 1.0),
        n=options["num_generations"],
        seed=seed,
        ends=scorer.ends,
    )
    known = prepared.rewarded if reads_problems(recipe) else bare(prepared.problems)
    before = phase.folder.with_name(f"round-{number - 1:03d}") if number > 1 else None
    return Round(
        number,
        seed,
        phase.folder,
        recipe,
        prepared.task,
        prepared.prompt,
        problems_of(known, rounds.problems, number, recipe.seed),
        scorer,
        decoding,
        before,
    )


def _check_settings(phase: Phase, round_: Round) -> None:
    """Writes how a round samples; refuses to go on with work that was begun in another way."""
    rounds, path = round_.recipe.rounds, phase.folder / SETTINGS
    assert rounds is not None
    settings = plain(
        {
            "sample": rounds.sample,
            "options": rounds.options,
            "problems": len(round_.problems),
            "batch_size": rounds.batch_size,
            **round_.decoding.described(),
        }
    )
    if not path.is_file():
        with writing(path):
            replace_file(path, json.dumps(settings, indent=2) + "\n")
    elif keys := different(read_object(path), settings):
        raise DataError(
            f"{phase.folder} was begun with other settings of sampling ({keys}); put these back in"
            f" {phase.path / 'recipe.yaml'}, or remove that folder, and {phase.go_on}."
        )


def _refuse_nothing(phase: Phase, round_: Round, rows: Sequence[Row], built: Built) -> None:
    if built.examples:
        return
    what = "completion to keep" if round_.recipe.algorithm == "sft" else "pair of a better and a worse completion"
    raise DataError(
        f"round {round_.number} found no {what} among its {len(rows)} samples ({_listed(built.counts)}); what was"
        f" trained before it is kept. Remove {phase.folder}, set more rounds.samples, a higher training.temperature or"
        f" other problems {phase.change_and_go_on}."
    )


def _facts(round_: Round, rows: Sequence[Row], built: Built) -> dict[str, Any]:
    """Computes what is known of a round once it has chosen."""
    from rlif.engines.rounds import sampling

    known = [
        {**row, "prompt": sampling.shown_prompt(round_, row), "prompt_ids": round_.prompt_ids(row)} for row in rows
    ]
    sampled = sum(row.get("sampled", row["tokens"]) for row in rows)
    more = sum(int(value) for name, value in built.counts.items() if name.endswith("_tokens"))
    measures = {**sampling.statistics(round_, rows), **measure_health(known), **built.counts}
    every = any(name != "self_certainty" for name in sampling.token_signals(round_.recipe.weights))
    return {
        "round": round_.number,
        "examples": len(built.examples),
        "samples": len(rows),
        "sampled_tokens": sampled + more,
        "tokens": sampled + more + sum(len(row["prompt_ids"]) for row in known),
        "path": "pass" if every else "decode",
        "measures": {name: value for name, value in measures.items() if is_number(value)},
    }


def seed_of(seed: int, number: int) -> int:
    """Returns the seed of a round: another one for each, and for each seed of a recipe."""
    return int.from_bytes(hashlib.sha256(f"{seed}/round {number}".encode()).digest()[:4]) % 2**31


def problems_of(problems: Sequence[Problem], each: int | None, number: int, seed: int) -> list[Problem]:
    """Returns the problems of a round: all, or the next ones of a shuffled pass, without a last part that is too small.

    Example:
        >>> problems = rlif.TASKS["clock"].load("train", limit=8)
        >>> rounds = [problems_of(problems, 4, number, seed=0) for number in (1, 2)]
        >>> len({problem.id for problem in rounds[0] + rounds[1]})
        8
    """
    if each is None:
        return list(problems)
    pass_, part = divmod(number - 1, len(problems) // each)
    order = list(problems)
    random.Random(f"{seed}/pass {pass_}").shuffle(order)
    return order[part * each :][:each]


def bare(problems: Sequence[Problem]) -> list[Problem]:
    """Returns problems without gold answers, solutions and columns."""
    return [replace(problem, gold=None, other_golds=(), solution=None, row={}) for problem in problems]


def _listed(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in counts.items()) or "nothing counted"
