"""Decides which texts mean the same, for semantic entropy on text without answers to extract.

    embedding    the cosine of their embeddings reaches a threshold; a sentence-transformers model
    entailment   each entails the other; a sequence classifier, both texts after the same prompt (arXiv 2302.09664)

A cluster is a connected component of such pairs, so the order of a group does not matter; the paper's greedy clusters
depend on it. Texts at the two ends of a chain of pairs need not mean the same. Texts that a model cannot read whole
are refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from scipy.sparse.csgraph import connected_components

from rlif.config.recipe import Equivalence
from rlif.errors import MachineError, ModelError, RewardError, first_line
from rlif.graders.external import BATCH, batches, load_classifier, model_device
from rlif.scoring.head import longest_sequence
from rlif.types import ClusterTexts


def load_equivalence(equivalence: Equivalence, device: str | None = None) -> ClusterTexts:
    """Loads the model that a recipe's `equivalence` names; returns a function that clusters texts by meaning."""
    where = device or model_device()
    return _by_embedding(equivalence, where) if equivalence.embedding else _by_entailment(equivalence, where)


def components(same: torch.Tensor) -> list[list[int]]:
    """Finds the connected components of a symmetric [n, n] relation, in order of first appearance."""
    count, labels = connected_components(same.numpy(), directed=False)
    return [numpy.flatnonzero(labels == label).tolist() for label in range(count)]


def _by_embedding(equivalence: Equivalence, device: str) -> ClusterTexts:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MachineError(
            "equivalence by embedding needs sentence-transformers: pip install 'rlif[semantic]'; or name an entailment"
            " model instead."
        ) from error
    try:
        encoder = SentenceTransformer(str(equivalence.embedding), device=device, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the embedding model {equivalence.embedding!r}: {first_line(error)}") from error

    def cluster_texts(prompt: str, texts: Sequence[str]) -> list[list[int]]:
        if encoder.max_seq_length is not None:  # beyond it the encoder would leave out the rest
            ids = encoder.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
            _check_length(f"the embedding model {equivalence.embedding!r}", encoder.max_seq_length, ids)
        unit_ND = encoder.encode(
            list(texts), batch_size=BATCH, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return components((unit_ND.double() @ unit_ND.double().T >= equivalence.threshold).cpu())

    return cluster_texts


def _by_entailment(equivalence: Equivalence, device: str) -> ClusterTexts:
    name = str(equivalence.entailment)
    tokenizer, model = load_classifier("entailment", name, device)
    labels = {str(label).lower(): number for label, number in model.config.label2id.items()}
    if "entailment" not in labels:
        raise ModelError(
            f"{name!r} is not an entailment model: its labels are {', '.join(sorted(labels))}, without 'entailment'."
        )

    limit = min(longest_sequence(model.config) or tokenizer.model_max_length, tokenizer.model_max_length)

    @torch.no_grad()
    def cluster_texts(prompt: str, texts: Sequence[str]) -> list[list[int]]:
        pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j]
        entails = torch.eye(len(texts), dtype=torch.bool)
        first, second = ([f"{prompt} {texts[pair[side]]}" for pair in pairs] for side in (0, 1))
        found: list[int] = []
        for inputs in batches(tokenizer, model, first, second, verbose=False):
            _check_length(f"the entailment model {name!r}", limit, inputs["input_ids"])
            found += model(**inputs).logits.argmax(-1).tolist()
        for (i, j), label in zip(pairs, found, strict=True):
            entails[i, j] = label == labels["entailment"]
        return components(entails & entails.T)

    return cluster_texts


def _check_length(model: str, limit: int, rows: Sequence[Any]) -> None:
    """Refuses texts of which the end would be left out, which may be where they differ.

    Raises:
        RewardError: names both lengths.
    """
    if (longest := max(map(len, rows), default=0)) > limit:
        raise RewardError(
            f"{model} reads {limit} tokens, but what it compares has {longest}; lower training.max_completion_length,"
            " or choose another"
        )
