"""Decides which texts mean the same, for semantic entropy on text without answers to extract.

    embedding    the cosine of their embeddings reaches a threshold; a sentence-transformers model
    entailment   each entails the other; a sequence classifier, both texts after the same prompt (arXiv 2302.09664)

A cluster is a connected component of such pairs, so the order of a group does not matter; the paper's greedy clusters
depend on it. Texts at the two ends of a chain of pairs need not mean the same.
"""

from collections.abc import Sequence

import numpy
import torch
from scipy.sparse.csgraph import connected_components

from rlif.config.recipe import Equivalence
from rlif.errors import MachineError, ModelError, first_line
from rlif.graders.external import load_classifier, model_device
from rlif.types import ClusterTexts

BATCH = 32


def load_equivalence(equivalence: Equivalence) -> ClusterTexts:
    """Loads the model that a recipe's `equivalence` names; returns a function that clusters texts by meaning."""
    return _by_embedding(equivalence) if equivalence.embedding else _by_entailment(str(equivalence.entailment))


def components(same: torch.Tensor) -> list[list[int]]:
    """Finds the connected components of a symmetric [n, n] relation, in order of first appearance."""
    count, labels = connected_components(same.numpy(), directed=False)
    return [numpy.flatnonzero(labels == label).tolist() for label in range(count)]


def _by_embedding(equivalence: Equivalence) -> ClusterTexts:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MachineError(
            "equivalence by embedding needs sentence-transformers: pip install 'rlif[semantic]'; or name an entailment"
            " model instead."
        ) from error
    try:
        encoder = SentenceTransformer(str(equivalence.embedding), device=str(model_device()), trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the embedding model {equivalence.embedding!r}: {first_line(error)}") from error

    def cluster_texts(prompt: str, texts: Sequence[str]) -> list[list[int]]:
        unit_ND = encoder.encode(
            list(texts), batch_size=BATCH, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return components((unit_ND.double() @ unit_ND.double().T >= equivalence.threshold).cpu())

    return cluster_texts


def _by_entailment(name: str) -> ClusterTexts:
    tokenizer, model = load_classifier("entailment", name)
    labels = {str(label).lower(): number for label, number in model.config.label2id.items()}
    if "entailment" not in labels:
        raise ModelError(
            f"{name!r} is not an entailment model: its labels are {', '.join(sorted(labels))}, without 'entailment'."
        )

    @torch.no_grad()
    def cluster_texts(prompt: str, texts: Sequence[str]) -> list[list[int]]:
        pairs = [(i, j) for i in range(len(texts)) for j in range(len(texts)) if i != j]
        entails = torch.eye(len(texts), dtype=torch.bool)
        for start in range(0, len(pairs), BATCH):
            part = pairs[start : start + BATCH]
            first, second = [[f"{prompt} {texts[side]}" for side in sides] for sides in zip(*part, strict=True)]
            inputs = tokenizer(first, second, padding=True, truncation=True, return_tensors="pt").to(model.device)
            for (i, j), label in zip(part, model(**inputs).logits.argmax(-1).tolist(), strict=True):
                entails[i, j] = label == labels["entailment"]
        return components(entails & entails.T)

    return cluster_texts
