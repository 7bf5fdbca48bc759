r"""Genius: samples step by step, and values each step by how sure the model is of what would follow it.

Of each problem, with b beams and r rollouts,

    step        r candidates for each beam, at the step temperature, up to the end of a step
    foresight   one completion of each candidate to its end; F = the mean log-probability of its tokens
    advantage   A = F - F of the candidate that the beam ended with (0 before the first step)
    selection   b candidates without replacement, p proportional to exp(F / selection temperature)

Each step gives one pair of whole completions: the candidate with the largest F against a random other one, with their
advantages for `rlif.engines.rounds.losses`.

Source: arXiv 2504.08672, and its code xufangzhi/Genius (foresight_sampling_with_vllm.py,
construct_foresight_preference_data.py), against which this was checked. Defaults of its runs: b 2, r 4, 4 steps, step
temperature 0.6, selection temperature 0.1, a step ends with a line (step_end "\n"); the foresight's temperature is left
at vLLM's 1. Training there: learning rate 5e-7, linear, warm-up 0.1, 128 pairs per step, one epoch.

Otherwise than there: log-probabilities are those of a pass at temperature 1. A candidate that ends the completion has
no foresight; its F is the mean over its own tokens (theirs divides 0 by almost 0, which gives F = 0, the largest
possible). A beam that ended is not continued. A rejected candidate has another text and a smaller F than the chosen.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlif.config.recipe import Recipe
from rlif.config.rounds import options_of
from rlif.config.steps import Most
from rlif.engines.rounds.examples import Built, Example, Round, in_batches
from rlif.engines.rounds.pairs import best_against
from rlif.errors import RecipeError
from rlif.files.jsonl import Row
from rlif.sampling.sampler import Completion, Decoding

Ids = list[int]
# from pairs of prompt ids and completion ids to the mean log-probability of each completion, in nats
Score = Callable[[Sequence[tuple[Ids, Ids]]], Sequence[float | None]]
Complete = Callable[[Sequence[Ids], Decoding], list[Completion]]

OPTIONS: dict[str, Any] = {
    "beams": 2,
    "rollouts": 4,  # candidates for each beam and step
    "steps": 4,
    "step_temperature": 0.6,
    "foresight_temperature": 1.0,
    "selection_temperature": 0.1,
    "step_end": "\n",  # the text that ends a step
}
OF_LOSS: dict[str, Any] = {"alpha": 1.0}  # of the calibrated loss


@dataclass(frozen=True)
class Foresight:
    """Says how steps are sampled and selected, see `OPTIONS`."""

    beams: int = 2
    rollouts: int = 4
    steps: int = 4
    step_temperature: float = 0.6
    foresight_temperature: float = 1.0
    selection_temperature: float = 0.1
    step_end: str = "\n"

    def __post_init__(self) -> None:
        for name in ("beams", "rollouts", "steps"):
            if getattr(self, name) < 1:
                raise RecipeError(f"rounds.options.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("step_temperature", "foresight_temperature", "selection_temperature"):
            if not getattr(self, name) > 0:
                raise RecipeError(f"rounds.options.{name} must be positive, not {getattr(self, name)}.")
        if not self.step_end:
            raise RecipeError("rounds.options.step_end is empty; give the text that ends a step.")
        if self.beams * self.rollouts < 2:
            raise RecipeError("rounds.options gives one candidate for a step; a pair takes two, so raise rollouts.")

    @property
    def candidates(self) -> int:
        """The candidates of a problem, each with its foresight."""
        return self.beams * self.rollouts * self.steps


@dataclass(frozen=True)
class Beam:
    """The steps that were selected so far."""

    ids: Ids = field(default_factory=list)
    score: float = 0.0  # F of its last step


@dataclass(frozen=True)
class Candidate:
    """A step that was sampled for a beam, with its foresight."""

    step: int  # from 0
    beam: Beam
    ids: Ids  # the tokens of beam and step
    open: bool  # it may be continued; else it ends the completion
    sampled: int  # tokens that were sampled for it, the foresight included
    tail: Ids = field(default_factory=list)  # the tokens of the foresight
    truncated: bool = False  # the token limit ends the whole
    score: float | None = None  # F, in nats; None where it cannot be scored

    @property
    def whole(self) -> Ids:
        """The tokens of the whole completion."""
        return self.ids + self.tail

    @property
    def advantage(self) -> float | None:
        """A, in nats."""
        return None if self.score is None else self.score - self.beam.score

    def scored(self, prompt: Ids) -> tuple[Ids, Ids]:
        """Returns what F is the mean log-probability of, after its prompt: the foresight or, without one, the step."""
        start = len(self.ids) if self.tail else len(self.beam.ids)
        return prompt + self.whole[:start], self.whole[start:]


def selection_probabilities(scores: Sequence[float], temperature: float) -> list[float]:
    """Computes the softmax of scores over a temperature.

    Example:
        >>> selection_probabilities([-0.1, -0.2], 0.1)
        [0.731..., 0.268...]
    """
    weights = [math.exp((score - max(scores)) / temperature) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


def draw_without_replacement(scores: Sequence[float], count: int, temperature: float, rng: random.Random) -> list[int]:
    """Draws places one after the other, each by the softmax over those that are left; all if there are no more."""
    left, drawn = list(range(len(scores))), []
    while left and len(drawn) < count:
        weights = selection_probabilities([scores[i] for i in left], temperature)
        drawn.append(left.pop(rng.choices(range(len(left)), weights)[0]))
    return drawn


@dataclass(frozen=True)
class Foreseer:
    """Samples the steps of problems and their foresights, all problems of a batch together."""

    complete: Complete  # samples
    score: Score
    decode: Callable[[Ids], str]  # from tokens to text
    decoding: Decoding  # max_tokens of whole completions, the seed, and `ends`; not its temperature and n
    how: Foresight = field(default_factory=Foresight)

    def foresee(self, prompts: Sequence[Ids]) -> list[list[Candidate]]:
        """Returns the candidates of all steps of each problem, of which `prompts` has the token ids."""
        found: list[list[Candidate]] = [[] for _ in prompts]
        beams = [[Beam()] * self.how.beams for _ in prompts]
        for step in range(self.how.steps):
            owners = [(problem, beam) for problem, mine in enumerate(beams) for beam in mine]
            if not owners:
                break
            candidates = self._steps(step, [prompts[problem] for problem, _ in owners], [beam for _, beam in owners])
            owned = [problem for problem, _ in owners for _ in range(self.how.rollouts)]
            candidates = self._foresights(step, [prompts[problem] for problem in owned], candidates)
            for problem, _ in enumerate(prompts):
                mine = [each for owner, each in zip(owned, candidates, strict=True) if owner == problem]
                found[problem] += mine
                beams[problem] = self._selected(mine, random.Random(f"{self.decoding.seed}/{problem}/{step}"))
        return found

    def _steps(self, step: int, prompts: Sequence[Ids], beams: Sequence[Beam]) -> list[Candidate]:
        """Samples the candidates of each beam."""
        limit, end = self.decoding.max_tokens, self.how.step_end
        longest = max(limit - len(beam.ids) for beam in beams)
        how = self._decoding(2 * step, longest, self.how.step_temperature, stop=(end,), n=self.how.rollouts)
        sampled = self.complete([prompt + beam.ids for prompt, beam in zip(prompts, beams, strict=True)], how)
        candidates = []
        for beam, completion in zip((beam for beam in beams for _ in range(how.n)), sampled, strict=True):
            ids = beam.ids + completion.completion_ids
            goes_on = completion.truncated or end in self.decode(completion.completion_ids)
            full = len(ids) >= limit
            sampled_tokens = len(completion.completion_ids)
            candidates.append(
                Candidate(step, beam, ids[:limit], goes_on and not full, sampled_tokens, truncated=goes_on and full)
            )
        return candidates

    def _foresights(self, step: int, prompts: Sequence[Ids], candidates: Sequence[Candidate]) -> list[Candidate]:
        """Completes the candidates that are open, and scores all."""
        limit = self.decoding.max_tokens
        done, places = list(candidates), [i for i, candidate in enumerate(candidates) if candidate.open]
        if places:
            longest = max(limit - len(candidates[i].ids) for i in places)
            how = self._decoding(2 * step + 1, longest, self.how.foresight_temperature)
            sampled = self.complete([prompts[i] + candidates[i].ids for i in places], how)
            for i, completion in zip(places, sampled, strict=True):
                left, ids = limit - len(done[i].ids), completion.completion_ids
                cut = completion.truncated or len(ids) > left
                tokens = done[i].sampled + len(ids)
                done[i] = replace(done[i], tail=ids[:left], truncated=cut, sampled=tokens)
        scores = self.score([each.scored(prompt) for prompt, each in zip(prompts, done, strict=True)])
        return [replace(each, score=score) for each, score in zip(done, scores, strict=True)]

    def _selected(self, candidates: Sequence[Candidate], rng: random.Random) -> list[Beam]:
        """Selects the beams of the next step; those that ended are not continued."""
        scored = [(each, each.score) for each in candidates if each.score is not None]
        scores = [score for _, score in scored]
        drawn = draw_without_replacement(scores, self.how.beams, self.how.selection_temperature, rng)
        return [Beam(scored[i][0].ids, scores[i]) for i in drawn if scored[i][0].open]

    def _decoding(self, call: int, tokens: int, temperature: float, stop: tuple[str, ...] = (), n: int = 1) -> Decoding:
        seed = random.Random(f"{self.decoding.seed}/{call}").randrange(2**31)
        changes: dict[str, Any] = {"max_tokens": tokens, "temperature": temperature, "stop": stop, "n": n, "seed": seed}
        return replace(self.decoding, top_p=1.0, **changes)


def settings_of(recipe: Recipe) -> Foresight:
    """Reads how a recipe foresees; refuses numbers that mean nothing, and keys that foresight does not read."""
    how = Foresight(**options_of(recipe, OPTIONS))
    rounds, training = recipe.rounds, recipe.training
    named = ["rounds.samples"] if rounds is not None and rounds.samples is not None else []
    named += ["training.num_generations"] if "num_generations" in training else []
    named += [f"training.{name}" for name in ("temperature", "top_p") if training.get(name, 1.0) != 1.0]
    if named:
        raise RecipeError(
            f"{named[0]} is not read by rounds.sample foresight, which draws beams x rollouts candidates at"
            " temperatures of rounds.options; leave it out."
        )
    return how


def most(recipe: Recipe, most: Most) -> Most:
    """Counts a pair for each step."""
    return replace(most, examples=settings_of(recipe).steps)


def alpha_of(recipe: Recipe) -> float:
    """Reads alpha of the calibrated loss; refuses one that means nothing."""
    alpha: float = options_of(recipe, OF_LOSS)["alpha"]
    if not 0 < alpha < math.inf:
        raise RecipeError(f"rounds.options.alpha must be positive, not {alpha}.")
    return alpha


def foresight(round_: Round) -> list[Row]:
    """Samples the rows of a round: the candidates of all steps of each problem, foresights included.

    Rows have further: `step` from 0, `foresight` (F) and `advantage` (A) in nats or None, and `sampled`, the tokens
    that were sampled for it.
    """
    how = settings_of(round_.recipe)

    def work(problems: Sequence[Any], number: int) -> list[Row]:
        seed = round_.rng("foresight", number).randrange(2**31)
        tokenizer, scorer = round_.scorer.tokenizer, round_.scorer
        foreseer = Foreseer(
            round_.complete,
            lambda pairs: [values["likelihood"] for values in scorer.score_ids(pairs)],
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            replace(round_.decoding, seed=seed),
            how,
        )
        prompts = [round_.prompt_ids({"id": problem.id}) for problem in problems]
        rows: list[Row] = []
        for problem, prompt, candidates in zip(problems, prompts, foreseer.foresee(prompts), strict=True):
            signals = scorer.score_ids([(prompt, each.whole) for each in candidates])
            for i, (each, values) in enumerate(zip(candidates, signals, strict=True)):
                text = foreseer.decode(each.whole)
                rows.append(
                    {
                        "id": problem.id,
                        "sample": i,
                        "completion": text,
                        "completion_ids": each.whole,
                        "answer": round_.task.answer(problem, text),
                        "right": None,
                        "tokens": len(each.whole),
                        "truncated": each.truncated,
                        "step": each.step,
                        "foresight": each.score,
                        "advantage": each.advantage,
                        "sampled": each.sampled,
                        **values,
                    }
                )
        return rows

    size = max(1, round_.scorer.batch_size // (how.beams * how.rollouts))
    batches = in_batches(round_.folder / "foresight.jsonl", round_.problems, size, work, "sampling with foresight")
    return [row for batch in batches for row in batch]


def soft(round_: Round, groups: Sequence[Sequence[Row]]) -> Built:
    """Makes a pair of each step of each problem: the largest F against a smaller one, with their advantages."""
    rounds = round_.recipe.rounds
    assert rounds is not None
    examples: list[Example] = []
    empty = 0
    for group in groups:
        for step in sorted({row["step"] for row in group}):
            rows = [row for row in group if row["step"] == step]
            values = [None if row["foresight"] is None else (row["foresight"],) for row in rows]
            rng = round_.rng("soft", rows[0]["id"], step)
            found = best_against(values, [row["completion"] for row in rows], rounds.against, rng)
            if found is None:
                empty += 1
                continue
            chosen, rejected = (rows[i] for i in found)
            ids = chosen["completion_ids"], rejected["completion_ids"]
            advantages = chosen["advantage"], rejected["advantage"]
            examples.append(Example(chosen["id"], round_.prompt_ids(chosen), *ids, values=advantages))
    return Built(examples, {"without_example": float(empty)})
