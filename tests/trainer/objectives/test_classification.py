"""Classes of texts and of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.trainer.objectives import naive
from tests.trainer.objectives.tiny import Tiny
from trainer.data.batch import Batch
from trainer.objectives.build import build_objective
from trainer.recipe.schema import ObjectiveOptions

CLASSES = 5


def _case(kind: str, seed: int) -> tuple[Tiny, Batch]:
    torch.manual_seed(seed)
    text = kind == "classification"
    network = Tiny(40, 8, nn.Linear(8, CLASSES), text=text)
    labels = torch.randint(CLASSES, (6,) if text else (6, 7))
    if not text:
        labels[torch.rand(6, 7) < 0.4] = -100
    return network, {"input_ids": torch.randint(40, (6, 7)), "labels": labels}


@pytest.mark.parametrize("kind", ["classification", "tagging"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_definition(kind: str, smoothing: float) -> None:
    network, batch = _case(kind, 1)
    objective = build_objective(ObjectiveOptions(kind=kind, label_smoothing=smoothing), network)
    logits = network(batch).reshape(-1, CLASSES).tolist()
    total, plain, count, correct = naive.cross_entropy(
        logits, batch["labels"].flatten().tolist(), smoothing
    )
    loss = objective(network, batch)
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    assert loss.plain.item() == pytest.approx(plain, rel=1e-5)
    assert loss.count.item() == count
    assert loss.correct is not None
    assert loss.correct.item() == correct


@pytest.mark.parametrize("kind", ["classification", "tagging"])
def test_micro_batches_add_up(kind: str) -> None:
    network, batch = _case(kind, 2)
    objective = build_objective(ObjectiveOptions(kind=kind, label_smoothing=0.1), network)
    whole = objective(network, batch)
    whole.total.backward()
    expected = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    parts = [objective(network, {k: v[i : i + 2] for k, v in batch.items()}) for i in (0, 2, 4)]
    for part in parts:
        part.total.backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for field in ("total", "plain", "count", "correct"):
        summed = sum(getattr(part, field).item() for part in parts)
        assert summed == pytest.approx(getattr(whole, field).item(), rel=1e-5)
