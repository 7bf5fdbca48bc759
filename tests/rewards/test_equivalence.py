"""Which texts mean the same, by tiny models made on the spot."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from support.models import byte_tokenizer, classifier_folder, tiny_config
from transformers import AutoTokenizer, Qwen2ForSequenceClassification, Qwen2Model

import rlif
from rlif.config.loading import check_recipe
from rlif.config.recipe import Equivalence
from rlif.rewards.equivalence import components, load_equivalence
from rlif.signals import GROUP_SIGNALS
from rlif.types import Group


def test_chains_join_what_pairs_join():
    same = torch.eye(5, dtype=torch.bool)
    for i, j in ((0, 3), (3, 4)):
        same[i, j] = same[j, i] = True
    assert components(same) == [[0, 3, 4], [1], [2]]
    assert components(torch.ones(0, 0)) == []


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A sentence-transformers model: a random Qwen2 with mean pooling."""
    pytest.importorskip("sentence_transformers", reason="no sentence-transformers; pip install -e .[dev]")
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:  # before 5.4
        from sentence_transformers.models import Pooling, Transformer

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    Qwen2Model(tiny_config()).save_pretrained(folder / "base")
    byte_tokenizer(chat=False).save_pretrained(folder / "base")
    modules = [Transformer(str(folder / "base")), Pooling(tiny_config().hidden_size)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "st"))
    return str(folder / "st")


def test_embeddings_by_their_cosine(encoder):
    """The clusters are those of an independent cosine at whatever threshold splits the texts."""
    from sentence_transformers import SentenceTransformer

    texts = ["two", "two", "a cat sat", "a cat sat.", "zzzzzzzzzz"]
    vectors = SentenceTransformer(encoder, device="cpu").encode(texts, convert_to_tensor=True).double()
    cosine = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    distinct = sorted({round(cosine[i, j].item(), 9) for i in range(5) for j in range(i) if (i, j) != (1, 0)})
    threshold = (distinct[-1] + distinct[-2]) / 2
    cluster_texts = load_equivalence(Equivalence(embedding=encoder, threshold=threshold))
    assert cluster_texts("?", texts) == components(cosine >= threshold) and len(components(cosine >= threshold)) == 3
    values = GROUP_SIGNALS["semantic_entropy"](Group("?", texts, [None] * 5, cluster_texts=cluster_texts))
    assert values[0] == values[1] > values[4]


PROMPT, TEXTS = "?", ["two", "a cat", "2", "zz!"]
ENTAILS = {(0, 2), (2, 0), (1, 0), (2, 3), (1, 3)}  # only the first and the third entail each other


def entailer(folder, padded=True):
    """A random classifier whose head is solved for, so that text i entails text j where `ENTAILS` has (i, j)."""
    torch.manual_seed(0)
    config = tiny_config(num_labels=3, id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"})
    config.label2id = {label: number for number, label in config.id2label.items()}
    model, tokenizer = Qwen2ForSequenceClassification(config).double().eval(), byte_tokenizer(chat=False)
    pairs = list(permutations(range(len(TEXTS)), 2))
    with torch.no_grad():
        ids = [tokenizer(*(f"{PROMPT} {TEXTS[i]}" for i in pair), return_tensors="pt") for pair in pairs]
        hidden_NH = torch.cat([model.model(**one).last_hidden_state[:, -1] for one in ids])
        wanted_N = torch.tensor([1.0 if pair in ENTAILS else -1.0 for pair in pairs], dtype=torch.float64)
        model.score.weight.zero_()
        model.score.weight[2] = torch.linalg.lstsq(hidden_NH, wanted_N).solution
        assert torch.allclose(hidden_NH @ model.score.weight[2], wanted_N)
    if not padded:
        model.config.pad_token_id = tokenizer.pad_token = None
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_entailment_goes_both_ways(tmp_path):
    """One way alone joins nothing: either half of the relation would give other clusters."""
    one_way = torch.tensor([[(i, j) in ENTAILS for j in range(4)] for i in range(4)])
    assert not torch.equal(one_way, one_way.T) and components(one_way | one_way.T) == [[0, 1, 2, 3]]
    cluster_texts = load_equivalence(Equivalence(entailment=entailer(tmp_path / "nli")))
    assert cluster_texts(PROMPT, TEXTS) == [[0, 2], [1], [3]]
    assert cluster_texts(PROMPT, TEXTS[::-1]) == [[0], [1, 3], [2]]


def test_an_entailment_model_without_padding_pads_with_its_end(tmp_path):
    """Its texts differ in length, and attention leaves the padding out."""
    cluster_texts = load_equivalence(Equivalence(entailment=entailer(tmp_path / "nli", padded=False)))
    assert cluster_texts(PROMPT, TEXTS) == [[0, 2], [1], [3]]


def test_texts_that_a_model_cannot_read_whole_are_refused(tmp_path, encoder):
    """Their ends would be left out without a word, and texts that differ there alone would mean the same."""
    folder = entailer(tmp_path / "nli")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(folder)
    cluster_texts = load_equivalence(Equivalence(entailment=folder))
    assert cluster_texts(PROMPT, TEXTS) == [[0, 2], [1], [3]]
    with pytest.raises(rlif.RlifError, match=r"entailment model .*nli' reads 40 tokens, but what it compares has 80"):
        cluster_texts(PROMPT, ["a" * 38, "b" * 38])
    from sentence_transformers import SentenceTransformer

    limit = SentenceTransformer(encoder, device="cpu").max_seq_length
    cluster_texts = load_equivalence(Equivalence(embedding=encoder))
    assert cluster_texts("?", ["a" * (limit - 1), "a" * (limit - 1)]) == [[0, 1]]
    with pytest.raises(rlif.RlifError, match=rf"reads {limit} tokens, but what it compares has {limit + 5}"):
        cluster_texts("?", ["a" * (limit + 5), "a"])


def test_models_that_cannot_tell(tmp_path, model_folder):
    with pytest.raises(rlif.RlifError, match="is not an entailment model: its labels are label_0, label_1"):
        load_equivalence(Equivalence(entailment=classifier_folder(tmp_path / "two", labels=2)))
    with pytest.raises(rlif.RlifError, match=r"the entailment model .* lacks score\.weight, which would be random"):
        load_equivalence(Equivalence(entailment=str(model_folder)))
    with pytest.raises(rlif.RlifError, match="cannot load the entailment model"):
        load_equivalence(Equivalence(entailment=str(tmp_path / "nowhere")))
    pytest.importorskip("sentence_transformers", reason="no sentence-transformers; pip install -e .[dev]")
    with pytest.raises(rlif.RlifError, match="cannot load the embedding model"):
        load_equivalence(Equivalence(embedding=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("model", [{}, {"embedding": "a", "entailment": "b"}])
def test_one_model_exactly(model):
    with pytest.raises(rlif.RlifError, match="equivalence needs one model"):
        check_recipe({"reward": "semantic_entropy", "equivalence": model})
