"""Every family of networks with the objectives it learns: chunked and full agree."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trainer.data.batch import Batch
from trainer.data.special import SpecialTokens
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.objectives.build import build_objective
from trainer.recipe.schema import ModelOptions, ObjectiveOptions

VOCABULARY = 1100
SPECIAL = SpecialTokens(pad=0, unknown=1, begin=2, end=3, mask=4, separator=5)

LANGUAGE = [
    ("decoder", "next-token", True),
    ("decoder", "next-token", False),
    ("encoder", "masked", True),
    ("seq2seq", "infilling", True),
    ("seq2seq", "sequence-to-sequence", False),
    ("recurrent", "next-token", True),
    ("recurrent", "next-token", False),
]
LABELLED = [
    ("decoder", "classification"),
    ("encoder", "classification"),
    ("encoder", "tagging"),
    ("recurrent", "classification"),
    ("convolution", "classification"),
]


def _network(family: str, kind: str, *, tied: bool = True, softmax: str = "chunked") -> Network:
    torch.manual_seed(0)
    return build_network(
        ModelOptions(family=family, layers=1, width=16, heads=2, filters=8, tie_embeddings=tied),
        ObjectiveOptions(kind=kind, softmax=softmax),
        vocabulary_size=VOCABULARY,
        context=12,
        special=SPECIAL,
        labels=("a", "b", "c") if kind in {"classification", "tagging"} else (),
    )


def _batch(family: str, kind: str) -> Batch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(6, VOCABULARY, (4, 12), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "seq2seq":
        batch["decoder_input_ids"] = torch.randint(6, VOCABULARY, (4, 7), generator=generator)
    shape = (4, 7) if family == "seq2seq" else (4, 12)
    if kind == "classification":
        return batch | {"labels": torch.randint(3, (4,), generator=generator)}
    classes = 3 if kind == "tagging" else VOCABULARY
    labels = torch.randint(classes, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.4] = -100
    return batch | {"labels": labels}


@pytest.mark.parametrize(("family", "kind", "tied"), LANGUAGE)
def test_chunks_of_the_hidden_states_are_the_logits_of_the_network(
    family: str, kind: str, tied: bool
) -> None:
    network, batch = _network(family, kind, tied=tied), _batch(family, kind)
    objective = build_objective(ObjectiveOptions(kind=kind, chunk_tokens=16), network)
    found = objective(network, batch)
    found.total.backward()
    ours = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad()
    expected = functional.cross_entropy(
        network(batch).flatten(0, 1), batch["labels"].flatten(), reduction="sum"
    )
    expected.backward()
    torch.testing.assert_close(found.total, expected, rtol=1e-5, atol=1e-4)
    for name, parameter in network.named_parameters():
        gradient = ours[name]
        if parameter.grad is None:
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "kind"), LABELLED)
def test_labels_are_scored_by_the_networks_logits(family: str, kind: str) -> None:
    network, batch = _network(family, kind), _batch(family, kind)
    loss = build_objective(ObjectiveOptions(kind=kind), network)(network, batch)
    logits = network(batch)
    logits = logits.reshape(-1, logits.shape[-1])
    expected = functional.cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-5)
    assert loss.correct is not None
    assert loss.correct.item() == (logits.argmax(dim=-1) == batch["labels"].flatten()).sum().item()


def test_a_recurrent_network_with_an_adaptive_softmax() -> None:
    network = _network("recurrent", "next-token", softmax="adaptive")
    batch = _batch("recurrent", "next-token")
    loss = build_objective(ObjectiveOptions(softmax="adaptive"), network)(network, batch)
    expected = functional.cross_entropy(
        network(batch).flatten(0, 1), batch["labels"].flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss.total, expected, rtol=1e-5, atol=1e-4)


def test_sentence_embeddings_of_an_encoder() -> None:
    network = _network("encoder", "contrastive")
    batch = {
        prefix + key: value
        for prefix in ("", "pair_")
        for key, value in _batch("encoder", "masked").items()
        if key != "labels"
    }
    batch["pair_input_ids"] = batch["pair_input_ids"].roll(1, dims=1)
    loss = build_objective(ObjectiveOptions(kind="contrastive"), network)(network, batch)
    loss.total.backward()
    assert loss.count.item() == 4
    assert torch.isfinite(loss.total)
