"""Samples completions outside a trainer.

Evaluation and selection sample from a `Sampler`: `TransformersSampler`, or vLLM's of `rlif.sampling.vllm_sampler`.
"""

import logging
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from rlif import progress
from rlif.errors import RecipeError
from rlif.sampling.early_stop import EarlyStop, StopUnsure
from rlif.sampling.limits import check_fit
from rlif.scoring.exactness import TOLERANCE_OF_MEANS, replaced
from rlif.scoring.head import causal_lm, evaluation_mode, head_of, verify_head, without_router_logits
from rlif.scoring.statistics import length_mask, score_completions
from rlif.scoring.taps import DecodeTap
from rlif.signals import SIGNALS
from rlif.types import TokenStats

LOG = logging.getLogger(__name__)
_warned: set[str] = set()  # models whose decoding is inexact; one warning is enough


@dataclass(frozen=True)
class Decoding:
    """Says how completions are sampled."""

    max_tokens: int  # completion limit
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # sample from the likeliest tokens whose probabilities sum to this
    stop: tuple[str, ...] = ()  # strings that end a completion, themselves left out of its text
    n: int = 1  # completions per prompt
    seed: int = 0  # for sampling
    ends: tuple[int, ...] = ()  # tokens that end a completion beside the model's own, `rlif.tasks.rendering.ends_of`

    def __post_init__(self) -> None:
        if self.n > 1 and not self.temperature:
            raise RecipeError(f"{self.n} greedy completions of a prompt would be the same; give a temperature, or n=1.")

    def described(self) -> dict[str, Any]:
        """Describes it as plain data; `ends` only where there are any."""
        values = asdict(self) | {"stop": list(self.stop), "ends": list(self.ends)}
        return {key: value for key, value in values.items() if key != "ends" or value}


@dataclass(frozen=True)
class Completion:
    """Holds one completion of one prompt."""

    text: str  # the decoded text, without special tokens and stop strings
    prompt_ids: list[int]
    completion_ids: list[int]  # all tokens, the end-of-sequence token and those of a stop string included
    truncated: bool  # the token limit ended it
    self_certainty: float | None = None  # in nats, at temperature 1; None where it was not or cannot be measured
    stopped: bool = False  # early stopping ended it, see `rlif.sampling.early_stop`


class Sampler(Protocol):
    """Completes prompts."""

    tokenizer: Any  # the model's
    batch_size: int  # how many completions to ask for at once

    def sample(self, prompt_ids: Sequence[Sequence[int]], decoding: Decoding) -> list[Completion]:
        """Samples `decoding.n` completions of each prompt, in the order of the prompts; repeatable by the seed."""
        ...

    def close(self) -> None:
        """Frees what the sampler started; it cannot sample any more."""
        ...


class TransformersSampler:
    """Samples by transformers' generate, and measures self-certainty from the same logits.

    Example:
        >>> sampler = TransformersSampler(model, tokenizer)
        >>> sampler.sample(prompt_ids, Decoding(max_tokens=8, temperature=1.0, n=4))[0].self_certainty > 0
        True
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 64):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    def sample(self, prompt_ids: Sequence[Sequence[int]], decoding: Decoding) -> list[Completion]:
        rows = [ids for ids in prompt_ids for _ in range(decoding.n)]
        with torch.random.fork_rng(enabled=bool(decoding.temperature)):
            if decoding.temperature:
                torch.manual_seed(decoding.seed)
            return generate(self.model, self.tokenizer, rows, decoding, batch_size=self.batch_size, self_certainty=True)

    def close(self) -> None:
        """Does nothing: the caller owns the model."""


def token_chars(tokenizer: Any, token_ids: Sequence[int], text: str) -> list[int] | None:
    """Counts the characters of a decoded text that each of its tokens made.

    Special tokens make none. The last of several tokens that share a character makes all of it. None if the tokens do
    not decode to the text.
    """
    lengths = [len(piece) for piece in tokenizer.batch_decode([[i] for i in token_ids], skip_special_tokens=True)]
    if sum(lengths) != len(text) or "\ufffd" in text:
        lengths, start, end = [], 0, 0
        for i in range(1, len(token_ids) + 1):  # decoded from the last whole character on, so linear in the tokens
            before = tokenizer.decode(token_ids[start:end], skip_special_tokens=True)
            window = tokenizer.decode(token_ids[start:i], skip_special_tokens=True)
            if window.endswith("\ufffd") and i < len(token_ids):
                lengths.append(0)
            else:
                lengths.append(len(window) - len(before))
                start, end = end, i
    return lengths if sum(lengths) == len(text) and min(lengths, default=0) >= 0 else None


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[Sequence[int]],
    decoding: Decoding,
    *,
    batch_size: int = 64,
    self_certainty: bool = False,
    early: EarlyStop | None = None,
) -> list[Completion]:
    """Completes each prompt once, in the order of the prompts.

    Nothing of the model's own generation config counts but its end-of-sequence tokens. Greedy decoding uses no random
    numbers; sampling uses torch's global state.

    Args:
        decoding: how to sample; its `n` and `seed` are not used here.
        batch_size: prompts per call of the model's generate.
        self_certainty: also measure it, from the logits of decoding, without another pass.
        early: end completions that get too unsure; it has one threshold per prompt.
    """
    config = _generation_config(model, tokenizer, decoding)
    check_fit(type(causal_lm(model)).__name__, model.config, tokenizer, prompt_ids, decoding.max_tokens)
    order = sorted(range(len(prompt_ids)), key=lambda i: -len(prompt_ids[i]))
    completions: dict[int, Completion] = {}
    if self_certainty:
        verify_head(model)
    starts = range(0, len(order), batch_size)
    shown = progress.task("sampling, token", len(starts) * decoding.max_tokens)
    plain = replaced(causal_lm(model), generation_config=GenerationConfig())  # generate fills gaps from it
    with evaluation_mode(model), without_router_logits(model), plain, shown as work:
        for number, start in enumerate(starts):
            work.done = number * decoding.max_tokens
            rows = order[start : start + batch_size]
            batch = tokenizer.pad(
                {"input_ids": [list(prompt_ids[i]) for i in rows]}, padding_side="left", return_tensors="pt"
            ).to(model.device)
            criterion = StopUnsure(model, [early.thresholds[i] for i in rows], early.window) if early else None
            watching = criterion.tap if criterion else nullcontext()
            with DecodeTap(model, 1.0) if self_certainty else nullcontext() as tap, watching:
                output = model.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    generation_config=config,
                    tokenizer=tokenizer if decoding.stop else None,
                    stopping_criteria=StoppingCriteriaList([*([criterion] if criterion else []), _Ticks(work)]),
                )
            generated = output[:, batch["input_ids"].shape[1] :].tolist()
            found = [_completion(tokenizer, prompt_ids[i], row, config) for i, row in zip(rows, generated, strict=True)]
            if criterion:
                found = [_stopped(tokenizer, *pair) for pair in zip(found, criterion.stopped_B.tolist(), strict=True)]
            completions |= zip(rows, found if tap is None else _with_self_certainty(model, tap, found), strict=True)
    return [completions[i] for i in range(len(prompt_ids))]


class _Ticks(StoppingCriteria):
    """Counts the tokens of calls of `generate`; ends nothing."""

    def __init__(self, work: progress.Work):
        self.work = work

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        self.work()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generation_config(model: Any, tokenizer: Any, decoding: Decoding) -> GenerationConfig:
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends]), *decoding.ends} - {None}
    temperature = decoding.temperature
    sampling = {"temperature": float(temperature), "top_k": 0, "top_p": decoding.top_p} if temperature else {}
    return GenerationConfig(
        max_new_tokens=decoding.max_tokens,
        do_sample=bool(temperature),
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        stop_strings=list(decoding.stop) or None,
        **sampling,
    )


def _completion(tokenizer: Any, prompt_ids: Sequence[int], row: list[int], config: GenerationConfig) -> Completion:
    """Reads the completion from a generated row: up to its end-of-sequence token or stop string, without padding."""
    ended = next((n for n, token in enumerate(row, start=1) if token in config.eos_token_id), None)
    ids = row[:ended]

    def stops_in(tokens: int) -> list[str]:
        text = tokenizer.decode(ids[:tokens], skip_special_tokens=True)
        return [stop for stop in config.stop_strings or () if stop in text]

    if stops := stops_in(len(ids)):  # padding follows, which may be an end-of-sequence token itself
        ids = ids[: bisect_left(range(len(ids)), True, key=lambda tokens: bool(stops_in(tokens)))]
    text = cut(tokenizer.decode(ids, skip_special_tokens=True), stops)
    return Completion(text, list(prompt_ids), ids, truncated=ended is None and not stops)


def _stopped(tokenizer: Any, completion: Completion, tokens: int) -> Completion:
    """Cuts a completion after `tokens` tokens; 0, or a number beyond its end, leaves it whole."""
    if not 0 < tokens <= len(completion.completion_ids):
        return completion
    ids, text = completion.completion_ids[:tokens], completion.text
    if len(ids) < len(completion.completion_ids):
        text = tokenizer.decode(ids, skip_special_tokens=True)
    return replace(completion, text=text, completion_ids=ids, truncated=False, stopped=True)


def cut(text: str, stop: Sequence[str]) -> str:
    """Cuts the text before the first stop string."""
    for string in stop:
        text = text.partition(string)[0]
    return text


def _with_self_certainty(model: Any, tap: DecodeTap, completions: list[Completion]) -> list[Completion]:
    lengths = [len(completion.completion_ids) for completion in completions]
    fields = tap.fields([len(tap.steps)] * len(lengths))
    assert fields is not None
    mean_logprob_BT = fields["mean_logprob"]
    mask_BT = length_mask(lengths, mean_logprob_BT.device)
    mean_logprob_BT = mean_logprob_BT[:, : mask_BT.shape[1]] * mask_BT
    stats = TokenStats(mask_BT, head_of(model).vocab_size, mean_logprob_BT=mean_logprob_BT)
    values = SIGNALS["self_certainty"](stats)
    if (off := _furthest(model, completions, values)) > TOLERANCE_OF_MEANS.get(causal_lm(model).dtype, 2e-4):
        name = type(causal_lm(model)).__name__
        if name not in _warned:
            _warned.add(name)
            LOG.warning(
                "%s: while it decodes in batches, a token is %.2g nats off an unpadded pass, so it may sample from"
                " another distribution than its own; self-certainty is that of a pass",
                name,
                off,
            )
        values = _by_a_pass(model, completions)
    return [replace(completion, self_certainty=value) for completion, value in zip(completions, values, strict=True)]


def _furthest(model: Any, completions: list[Completion], values: list[float | None]) -> float:
    """Computes how far values are off those of a pass, in the longest and in the most padded row with tokens."""
    rows = [row for row, value in enumerate(values) if value is not None]
    sizes = {row: len(completions[row].prompt_ids) + len(completions[row].completion_ids) for row in rows}
    looked_at = {max(rows, key=sizes.__getitem__), min(rows, key=sizes.__getitem__)} if rows else ()
    return max((abs(_by_a_pass(model, [completions[row]])[0] - values[row]) for row in looked_at), default=0.0)


def _by_a_pass(model: Any, completions: list[Completion]) -> list[Any]:
    """Computes the self-certainty of completions by passes over one unpadded sequence at a time."""
    rows = [each.prompt_ids for each in completions], [each.completion_ids for each in completions]
    return SIGNALS["self_certainty"](score_completions(model, *rows, batch_size=1))
