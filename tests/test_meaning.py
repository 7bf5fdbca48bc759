"""Which texts mean the same, by tiny models made on the spot."""

from __future__ import annotations

import pytest
import torch
from conftest import byte_tokenizer, tiny_config
from transformers import Qwen2ForSequenceClassification, Qwen2Model

import rlif
from rlif.config import Meaning, check_recipe
from rlif.meaning import chains, load_meaning
from rlif.signals import GROUP_SIGNALS
from rlif.types import Group


def test_chains_join_what_pairs_join():
    same = torch.eye(5, dtype=torch.bool)
    for i, j in ((0, 3), (3, 4)):
        same[i, j] = same[j, i] = True
    assert chains(same) == [[0, 3, 4], [1], [2]]
    assert chains(torch.ones(0, 0)) == []


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A sentence-transformers model: a random Qwen2 with mean pooling."""
    modules = pytest.importorskip("sentence_transformers.models")
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    Qwen2Model(tiny_config()).save_pretrained(folder / "base")
    byte_tokenizer(chat=False).save_pretrained(folder / "base")
    words = modules.Transformer(str(folder / "base"))
    SentenceTransformer(modules=[words, modules.Pooling(tiny_config().hidden_size)], device="cpu").save(
        str(folder / "st")
    )
    return str(folder / "st")


def test_embeddings_by_their_cosine(encoder):
    """The clusters are those of an independent cosine at whatever threshold splits the texts."""
    from sentence_transformers import SentenceTransformer

    texts = ["two", "two", "a cat sat", "a cat sat.", "zzzzzzzzzz"]
    vectors = SentenceTransformer(encoder, device="cpu").encode(texts, convert_to_tensor=True).double()
    cosine = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    distinct = sorted({round(cosine[i, j].item(), 9) for i in range(5) for j in range(i) if (i, j) != (1, 0)})
    threshold = (distinct[-1] + distinct[-2]) / 2
    alike = load_meaning(Meaning(embedding=encoder, threshold=threshold))
    assert alike("?", texts) == chains(cosine >= threshold) and len(chains(cosine >= threshold)) == 3
    values = GROUP_SIGNALS["semantic_entropy"](Group("?", texts, [None] * 5, alike=alike))
    assert values[0] == values[1] > values[4]


def entailer(folder, bias):
    """A random classifier whose last bias decides: everything entails everything, or nothing does."""
    torch.manual_seed(0)
    config = tiny_config(num_labels=3, id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"})
    config.label2id = {label: number for number, label in config.id2label.items()}
    model = Qwen2ForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.zero_()
        model.score.weight[2] = bias * model.model.norm.weight
    model.save_pretrained(folder)
    byte_tokenizer(chat=False).save_pretrained(folder)
    return str(folder), model.double().eval()


def test_entailment_goes_both_ways(tmp_path):
    folder, model = entailer(tmp_path / "nli", 1.0)
    tokenizer, texts = byte_tokenizer(chat=False), ["two", "a cat", "2", "zz!"]

    def entails(i, j):
        ids = tokenizer(f"? {texts[i]}", f"? {texts[j]}", return_tensors="pt")
        return model(**ids).logits.argmax(-1).item() == 2

    same = torch.tensor([[i == j or (entails(i, j) and entails(j, i)) for j in range(4)] for i in range(4)])
    one_way = torch.tensor([[i == j or entails(i, j) for j in range(4)] for i in range(4)])
    assert load_meaning(Meaning(entailment=folder))("?", texts) == chains(same)
    assert one_way.sum() > 4, "nothing entails anything, so the test would show nothing"


def test_models_that_cannot_tell(tmp_path, model_folder):
    with pytest.raises(rlif.RlifError, match="is no entailment model: its labels are label_0, label_1"):
        load_meaning(Meaning(entailment=str(model_folder)))
    with pytest.raises(rlif.RlifError, match="cannot load the entailment model"):
        load_meaning(Meaning(entailment=str(tmp_path / "nowhere")))
    pytest.importorskip("sentence_transformers")
    with pytest.raises(rlif.RlifError, match="cannot load the embedding model"):
        load_meaning(Meaning(embedding=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("meaning", [{}, {"embedding": "a", "entailment": "b"}])
def test_one_model_exactly(meaning):
    with pytest.raises(rlif.RlifError, match="meaning needs one model"):
        check_recipe({"reward": "semantic_entropy", "meaning": meaning})
