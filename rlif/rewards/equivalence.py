"""Decides which texts mean the same, for semantic entropy on text without answers to extract.

    embedding    cosine of their embeddings at or above a threshold; a sentence-transformers model
    entailment   each entails the other; a sequence classifier, both texts after the same prompt (arXiv 2302.09664)

Texts belong together if a chain of such pairs joins them, so the order of a group does not matter; the paper's greedy
clusters depend on it. Texts at the ends of a chain need not mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlif.config.recipe import Equivalence
from rlif.errors import MachineError, ModelError, first_line

BATCH = 32

Alike = Callable[[str, Sequence[str]], list[list[int]]]


def load_equivalence(meaning: Equivalence) -> Alike:
    """Loads the model of a recipe's `equivalence`; gives a function from prompt and texts to clusters of their indices.

    Raises:
        ModelError: the model cannot be loaded, or is of another kind.
    """
    return _by_embedding(meaning) if meaning.embedding else _by_entailment(str(meaning.entailment))


def chains(same: torch.Tensor) -> list[list[int]]:
    """Connected components of a symmetric [n, n] relation, in order of first appearance."""
    left, found = list(range(len(same))), []
    while left:
        component, frontier = [], [left.pop(0)]
        while frontier:
            i = frontier.pop()
            component.append(i)
            joined = [j for j in left if same[i, j]]
            left = [j for j in left if j not in joined]
            frontier += joined
        found.append(sorted(component))
    return found


def _device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def _by_embedding(meaning: Equivalence) -> Alike:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MachineError(
            "meaning by embedding needs sentence-transformers: pip install 'rlif[semantic]'; or name an entailment"
            " model instead."
        ) from error
    try:
        encoder = SentenceTransformer(str(meaning.embedding), device=str(_device()), trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the embedding model {meaning.embedding!r}: {first_line(error)}") from error

    def alike(prompt: str, texts: Sequence[str]) -> list[list[int]]:
        unit_ND = encoder.encode(
            list(texts), batch_size=BATCH, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return chains((unit_ND.double() @ unit_ND.double().T >= meaning.threshold).cpu())

    return alike


def _by_entailment(name: str) -> Alike:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model: Any = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the entailment model {name!r}: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    model = model.eval().to(_device())
    labels = {str(label).lower(): number for label, number in model.config.label2id.items()}
    if "entailment" not in labels:
        raise ModelError(
            f"{name!r} is no entailment model: its labels are {', '.join(sorted(labels))}, none 'entailment'."
        )

    @torch.no_grad()
    def alike(prompt: str, texts: Sequence[str]) -> list[list[int]]:
        pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j]
        entails = torch.eye(len(texts), dtype=torch.bool)
        for start in range(0, len(pairs), BATCH):
            part = pairs[start : start + BATCH]
            said = [[f"{prompt} {texts[side]}" for side in sides] for sides in zip(*part, strict=True)]
            inputs = tokenizer(*said, padding=True, truncation=True, return_tensors="pt").to(model.device)
            for (i, j), label in zip(part, model(**inputs).logits.argmax(-1).tolist(), strict=True):
                entails[i, j] = label == labels["entailment"]
        return chains(entails & entails.T)

    return alike
