"""Forecasts from one rollout of the base, without labels, whether a model will gain on prompts before it collapses.

Confidence as a reward teaches what a model already does when it is sure. So completions of one problem must differ, and
the better ones must be the surer ones. From G completions of each of some problems, with u the signal:

    spread    mean over groups of the standard deviation of u; what the reward has to choose by
    disagree  share of the groups whose answers differ; where none does, u chooses between wordings of one answer
    pull      P(u of a completion that gives its group's most frequent answer > u of one that does not), ties half,
              mean over the groups that disagree: what the reward moves answers towards. 0.5: nothing
    longer    P(u of a longer completion > u of a shorter one) within groups: where the reward moves length

    no        half the completions do not end, or have no answer; or fewer than a tenth of the groups disagree; or the
              pull is surely below 0.5: surer completions give rarer answers
    yes       none of these, and the pull is surely above 0.5 (95 % over groups)
    unclear   otherwise

arXiv 2603.08660 finds that collapse follows the model's prior more than any setting. Its indicator, the Model Collapse
Step, is the step at which a short training run collapses: here, where `rlif train RECIPE guard.policy=stop` stops. This
forecast costs one rollout instead of a run.

It does not say whether the most frequent answers are right: a model that is surely and consistently wrong gets a yes.
Nor when collapse comes, which depends on learning rate and KL weight (`demo-long` and `demo-collapse` share a base and
a forecast), nor what the form alone is worth. An unclear pull does not rule a gain out: the self-certainty of
Qwen2.5-3B does not separate its right from its wrong answers before training (arXiv 2505.19590, Fig. 8), and it gains.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rlif import progress
from rlif.config.recipe import Recipe
from rlif.config.rounds import feedback_of, in_rounds
from rlif.errors import RecipeError
from rlif.guard.health import groups, measure_health, pull, wins
from rlif.intervals import Interval, t_interval

HALF, FEW = 0.5, 0.1


@dataclass(frozen=True)
class Forecast:
    """Holds what `forecast` found."""

    verdict: str  # "yes", "no" or "unclear"
    reasons: list[str]  # why, a sentence each
    problems: int
    completions: int
    spread: float | None  # nats, or whatever the signal is in; None where no group has two rewards
    disagree: float  # share of the groups with answers
    pull: Interval | None  # None where no group shows any, as `longer`
    longer: Interval | None
    truncated: float  # a share of the completions, as the next two
    unanswered: float
    goes_on: float


def forecast(rows: Sequence[Mapping[str, Any]]) -> Forecast:
    """Judges one rollout of the base.

    Args:
        rows: as for `rlif.guard.health.measure_health`, with `reward` (None where there is none) and `truncated`.

    Example::

        forecast(Run.open("runs/demo").completions(1)).verdict  # "yes"
    """
    sets = groups(rows)
    scored = [[row for row in group if row["reward"] is not None] for group in sets]
    spreads = [stdev(row["reward"] for row in group) for group in scored if len(group) > 1]
    answered = [kept for group in scored if len(kept := [row for row in group if row["answer"] is not None]) > 1]
    split = [group for group in answered if len({row["answer"].strip() for row in group}) > 1]
    signs = measure_health(rows)
    found = {
        "problems": len(sets),
        "completions": len(rows),
        "spread": fmean(spreads) if spreads else None,
        "disagree": len(split) / len(answered) if answered else 0.0,
        "pull": _over_groups(map(pull, split)),
        "longer": _over_groups(map(_longer, scored)),
        "truncated": fmean(row["truncated"] for row in rows),
        "unanswered": signs["unanswered"],
        "goes_on": signs["goes_on"],
    }
    verdict, reasons = _verdict(found)
    return Forecast(verdict, reasons, **found)


def _over_groups(values: Iterable[float | None]) -> Interval | None:
    """Computes the mean over the groups that have a value; None without any."""
    known = [value for value in values if value is not None]
    return t_interval(known).within(0, 1) if known else None


def _longer(group: Sequence[Mapping[str, Any]]) -> float | None:
    lengths = [(len(row["completion_ids"]), row["reward"]) for row in group]
    return wins([(u, v) for (m, u), (n, v) in itertools.product(lengths, lengths) if m > n])


def _verdict(found: Mapping[str, Any]) -> tuple[str, list[str]]:
    pulled: Interval | None = found["pull"]
    against = []
    if found["truncated"] >= HALF:
        against.append(f"{found['truncated']:.0%} of completions do not end within the limit")
    if found["unanswered"] >= HALF:
        against.append(f"{found['unanswered']:.0%} of completions have no answer")
    if not found["spread"]:
        against.append("the signal does not differ within groups")
    if found["disagree"] < FEW and not against:
        against.append(f"only {found['disagree']:.0%} of groups give different answers: nothing to choose between")
    if pulled and pulled.high is not None and pulled.high < HALF:
        against.append(f"surer completions give rarer answers (pull {_shown(pulled)})")
    if against:
        return "no", against
    if pulled and pulled.low is not None and pulled.low > HALF:
        return "yes", [f"surer completions give their group's most frequent answer (pull {_shown(pulled)})"]
    reason = f"pull {_shown(pulled)}" if pulled else "no group has an answer more frequent than the others"
    return "unclear", [f"confidence does not tell frequent from rare answers here ({reason})"]


def _shown(found: Interval) -> str:
    bounds = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.mean:.2f}{bounds} over {found.n} group{'s'[: found.n > 1]}"


def probe(recipe: Recipe, problems: int = 32) -> Forecast:
    """Samples one rollout of a recipe's model as training would, scores it and forecasts; trains nothing."""
    from rlif.rewards.terms import kind_of
    from rlif.sampling.loading import load_model
    from rlif.sampling.sampler import Decoding, TransformersSampler
    from rlif.scoring.head import head_of
    from rlif.scoring.statistics import score_completions
    from rlif.signals import SIGNALS, fields_read, windowed
    from rlif.signals.token_confidence import TOP_K
    from rlif.tasks.rendering import ends_of, render_all
    from rlif.training.prepare import prepare

    if in_rounds(recipe) and feedback_of(recipe) != [recipe.reward]:
        chosen = " and ".join(feedback_of(recipe))
        raise RecipeError(f"a forecast is of a signal that chooses; this recipe chooses samples by {chosen}.")
    signal = str(recipe.reward)
    if not isinstance(recipe.reward, str) or kind_of(signal) != "token":
        raise RecipeError(
            f"a forecast reads one token signal of {', '.join(SIGNALS)}; the recipe rewards {recipe.reward}."
        )
    prepared = prepare(recipe)
    tokenizer, chosen = prepared.tokenizer, prepared.problems[:problems]
    model, training = load_model(recipe), recipe.resolved_training
    temperature, group = training["temperature"], training["num_generations"]
    chat = recipe.chat_template
    ids = render_all(tokenizer, prepared.prompt, [problem.prompt for problem in chosen], chat)
    sampling = {"temperature": temperature, "n": group, "seed": recipe.seed, "ends": ends_of(tokenizer, chat)}
    decoding = Decoding(training["max_completion_length"], **sampling)
    sampler = TransformersSampler(model, tokenizer, training["per_device_train_batch_size"])
    sampled = sampler.sample(ids, decoding)
    top_k = min(TOP_K, head_of(model).vocab_size) if "topk_confidence_BT" in fields_read(signal) else None
    prompt_ids, completion_ids = [found.prompt_ids for found in sampled], [found.completion_ids for found in sampled]
    with progress.task("scoring the completions"):
        stats = score_completions(model, prompt_ids, completion_ids, temperature=temperature, top_k=top_k)
    rewards = windowed(signal, recipe.confidence_window)(stats)
    rows = [
        {
            "prompt": chosen[i // group].text,
            "prompt_ids": found.prompt_ids,
            "completion": found.text,
            "completion_ids": found.completion_ids,
            "answer": prepared.task.answer(chosen[i // group], found.text),
            "truncated": found.truncated,
            "reward": reward,
        }
        for i, (found, reward) in enumerate(zip(sampled, rewards, strict=True))
    ]
    return forecast(rows)
