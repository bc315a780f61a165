"""Objectives over a vocabulary, through networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.trainer.objectives import naive
from tests.trainer.objectives.tiny import Tiny
from trainer.data.batch import Batch
from trainer.objectives.adaptive import AdaptiveOutput
from trainer.objectives.build import build_objective
from trainer.objectives.loss import Loss, Objective
from trainer.recipe.schema import ObjectiveOptions

VOCABULARY = 1200  # large enough to be taken in chunks
WIDTH = 12


def _batch(seed: int, sequences: int = 4, length: int = 6, vocabulary: int = VOCABULARY) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (sequences, length)
    labels = torch.randint(vocabulary, shape, generator=generator)
    labels[torch.rand(shape, generator=generator) < 0.3] = -100
    return {"input_ids": torch.randint(vocabulary, shape, generator=generator), "labels": labels}


def _network(seed: int = 0, vocabulary: int = VOCABULARY, *, bias: bool = True) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(vocabulary, WIDTH, nn.Linear(WIDTH, vocabulary, bias=bias))


def _objective(network: Tiny, **values: object) -> Objective:
    return build_objective(ObjectiveOptions(**values), network)  # type: ignore[arg-type]


def _gradients(network: Tiny, loss: Loss) -> dict[str, torch.Tensor]:
    network.zero_grad()
    loss.total.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


KINDS = ("next-token", "masked", "infilling", "sequence-to-sequence")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("softmax", ["chunked", "full"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_definition(kind: str, softmax: str, smoothing: float) -> None:
    network, batch = _network(), _batch(1)
    logits = network(batch).flatten(0, 1).tolist()
    total, plain, count, correct = naive.cross_entropy(
        logits, batch["labels"].flatten().tolist(), smoothing
    )
    objective = _objective(
        network, kind=kind, softmax=softmax, label_smoothing=smoothing, chunk_tokens=16
    )
    trained = objective(network, batch)
    assert trained.total.item() == pytest.approx(total, rel=1e-5)
    assert trained.plain.item() == pytest.approx(plain, rel=1e-5)
    assert trained.count.item() == count
    assert trained.correct is None
    with torch.no_grad():
        measured = objective(network, batch)
    assert measured.total.item() == pytest.approx(total, rel=1e-5)
    assert measured.correct is not None
    assert measured.correct.item() == correct


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("softmax", ["chunked", "full"])
def test_losses_and_gradients_of_micro_batches_add_up(kind: str, softmax: str) -> None:
    network, batch = _network(), _batch(2)
    objective = _objective(network, kind=kind, softmax=softmax, label_smoothing=0.1)
    whole = objective(network, batch)
    expected = _gradients(network, whole)
    parts = [objective(network, {k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)]
    network.zero_grad()
    for part in parts:
        part.total.backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)
    for field in ("total", "plain", "count"):
        summed = sum(getattr(part, field).item() for part in parts)
        assert summed == pytest.approx(getattr(whole, field).item(), rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_chunked_and_full_give_the_same_gradients(tied: bool, bias: bool) -> None:
    network, batch = _network(bias=bias), _batch(3)
    if tied:
        network.tie()
    chunked = _objective(network, kind="next-token", softmax="chunked", chunk_tokens=16)
    full = _objective(network, kind="next-token", softmax="full")
    ours, theirs = (_gradients(network, o(network, batch)) for o in (chunked, full))
    assert ours.keys() == theirs.keys() == {name for name, _ in network.named_parameters()}
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-5, atol=1e-5)


def test_a_small_vocabulary_takes_the_plain_way() -> None:
    network = _network(vocabulary=65)
    batch = _batch(4, vocabulary=65)
    chunked = _objective(network, kind="next-token", softmax="chunked")
    loss = chunked(network, batch)
    # Gradients can be taken twice only if they were not made in the forward pass.
    loss.total.backward(retain_graph=True)
    loss.total.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_targets_is_zero_with_gradients_of_zero(kind: str) -> None:
    network, batch = _network(), _batch(5)
    batch["labels"].fill_(-100)
    loss = _objective(network, kind=kind)(network, batch)
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert loss.count.item() == 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum().item() == 0.0


@pytest.mark.parametrize("kind", ["next-token", "masked"])
def test_an_adaptive_output_is_scored_exactly(kind: str) -> None:
    torch.manual_seed(6)
    network = Tiny(90, WIDTH, AdaptiveOutput(WIDTH, 90, (10, 40)))
    batch = _batch(6, vocabulary=90)
    logits = network(batch).flatten(0, 1).tolist()
    total, _, count, correct = naive.cross_entropy(logits, batch["labels"].flatten().tolist())
    objective = _objective(network, kind=kind, softmax="adaptive")
    loss = objective(network, batch)
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    assert loss.plain.item() == pytest.approx(total, rel=1e-5)
    assert loss.count.item() == count
    assert loss.correct is None
    with torch.no_grad():
        measured = objective(network, batch)
    assert measured.correct is not None
    assert measured.correct.item() == correct


def test_micro_batches_of_an_adaptive_output_add_up() -> None:
    torch.manual_seed(6)
    network = Tiny(90, WIDTH, AdaptiveOutput(WIDTH, 90, (10, 40)))
    batch = _batch(6, vocabulary=90)
    objective = _objective(network, softmax="adaptive")
    expected = _gradients(network, objective(network, batch))
    network.zero_grad()
    for index in range(4):
        objective(network, {k: v[index : index + 1] for k, v in batch.items()}).total.backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_under_autocast_the_sums_are_float32() -> None:
    network, batch = _network(), _batch(7)
    for softmax in ("chunked", "full"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = _objective(network, softmax=softmax)(network, batch)
        assert loss.total.dtype == loss.plain.dtype == torch.float32
        assert loss.count.dtype == torch.int64
        loss.total.backward()
