from __future__ import annotations

import pytest
import torch

from tests.trainer.models.networks import LABELS, make
from trainer.data.batch import Batch
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.errors import RecipeError
from trainer.models.label_texts import parse_label_texts, start_from_texts
from trainer.recipe.schema import TokenizerOptions

GIVEN = ("bad=dull", "bad=slow", "fair=so so", "good = fine", "good=a=b")
CLASSIFIERS = ("encoder-classifier", "encoder-mean-classifier", "convolution", "lstm-classifier")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["dull slow so fine a=b bad fair good"]
    return train_tokenizer(TokenizerOptions(kind="character"), texts, "encoder").tokenizer


def rows(tokenizer: Tokenizer, text: str) -> Batch:
    ids = torch.tensor([tokenizer.raw.encode(text).ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_labels_own_texts_get_its_logit_on_the_mean(kind: str, tokenizer: Tokenizer) -> None:
    network = make(kind).train()
    start_from_texts(network, tokenizer, GIVEN, 4.0)
    assert network.training
    network.eval()
    texts = parse_label_texts(GIVEN, LABELS)
    with torch.inference_mode():
        for at, label in enumerate(LABELS):
            found = torch.cat([network(rows(tokenizer, text)) for text in texts[label]]).mean(0)
            assert float(found[at]) == pytest.approx(4.0, abs=1e-3)


def test_the_middle_of_all_labels_is_for_none(tokenizer: Tokenizer) -> None:
    network = make("encoder-classifier")
    start_from_texts(network, tokenizer, GIVEN, 2.0)
    head = network.head
    network.eval()
    texts = parse_label_texts(GIVEN, LABELS)
    with torch.inference_mode():
        means = [
            torch.cat([network.hidden(rows(tokenizer, text)) for text in found]).mean(0)
            for found in texts.values()
        ]
        assert head is not None
        logits = head(torch.stack(means).mean(0))
    torch.testing.assert_close(logits, torch.zeros(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("bad=x", "fair=y"), "no text for the label 'good'"),
        (("bad=x", "fair=y", "good=z", "fine=w"), "entry 4 is for a label"),
        (("bad",), "entry 1 is not of the form"),
        (("bad= ",), "entry 1 is not of the form"),
        (("bad=so", "fair=so", "good=so"), "must differ"),
        (("bad=so", "fair=fine", "good=" + "so " * 40), "tokens"),
    ],
)
def test_texts_that_do_not_describe_the_labels(
    given: tuple[str, ...], reason: str, tokenizer: Tokenizer
) -> None:
    network = make("encoder-classifier")
    assert network.head is not None
    before = [p.detach().clone() for p in network.head.parameters()]
    with pytest.raises(RecipeError, match=reason):
        start_from_texts(network, tokenizer, given, 4.0)
    for kept, now in zip(before, network.head.parameters(), strict=True):
        assert torch.equal(kept, now)


@pytest.mark.parametrize("kind", ["encoder-masked", "encoder-embedding", "decoder"])
def test_only_a_classifier_has_labels_to_start_from(kind: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(RecipeError, match="only a classifier"):
        start_from_texts(make(kind), tokenizer, GIVEN, 4.0)
