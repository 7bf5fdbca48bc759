"""Makes rounds whose policy answers what a test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlif
from rlif.config.loading import check_recipe
from rlif.engines.rounds.examples import Round
from rlif.sampling.sampler import Completion, Decoding
from rlif.selection.scorer import Scorer
from rlif.tasks import Task
from rlif.tasks.prompts import find_prompt
from rlif.types import Problem
from support.models import byte_tokenizer, tiny_model

Answer = Callable[[str, int], str]  # from the prompt and the number of the completion to its text


@dataclass(frozen=True)
class Told(Round):
    """A round that samples what `says` returns; `asked` remembers the prompts and how they were to be decoded."""

    says: Answer = lambda prompt, i: ""
    asked: list[tuple[str, Decoding]] = ()  # type: ignore[assignment]

    def complete(self, prompt_ids: Sequence[Sequence[int]], decoding: Decoding) -> list[Completion]:
        tokenizer = self.scorer.tokenizer
        completions = []
        for ids in prompt_ids:
            prompt = tokenizer.decode(ids)
            self.asked.append((prompt, decoding))
            for i in range(decoding.n):
                text = self.says(prompt, i)
                tokens = [*tokenizer(text=text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
                kept = tokens[: decoding.max_tokens]
                completions.append(Completion(text, list(ids), kept, truncated=len(kept) < len(tokens)))
        return completions


def told(
    folder: Path,
    says: Answer = lambda prompt, i: "",
    problems: Sequence[Problem] = (),
    *,
    algorithm: str = "dpo",
    rounds: dict[str, Any] | None = None,
    task: Task | None = None,
    n: int = 2,
    **changes: Any,
) -> Told:
    """Makes a round of a tiny random model."""
    reference = {"reference": "last"} if algorithm == "dpo" else {}
    recipe = check_recipe({"model": "tiny-reasoner", "algorithm": algorithm, "rounds": reference | (rounds or {})})
    settings: dict[str, Any] = {
        "number": 1,
        "seed": 5,
        "folder": folder,
        "recipe": recipe,
        "task": task or rlif.TASKS["clock"],
        "prompt": find_prompt("plain"),
        "problems": list(problems),
        "scorer": Scorer(tiny_model(), byte_tokenizer(), batch_size=8),
        "decoding": Decoding(max_tokens=400, temperature=1.0, n=n),
    }
    return Told(**settings | changes, says=says, asked=[])
