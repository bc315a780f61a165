"""Symmetric InfoNCE within a micro-batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.trainer.objectives import naive
from tests.trainer.objectives.tiny import Tiny
from trainer.data.batch import Batch
from trainer.errors import RecipeError
from trainer.objectives.build import build_objective
from trainer.objectives.loss import Loss, Objective
from trainer.recipe.schema import ObjectiveOptions


def _objective(temperature: float = 0.2, smoothing: float = 0.0) -> Objective:
    options = ObjectiveOptions(
        kind="contrastive", temperature=temperature, label_smoothing=smoothing
    )
    return build_objective(options, Tiny(30, 8, None, text=True))


def _case(pairs: int, seed: int = 0) -> tuple[Tiny, Batch]:
    torch.manual_seed(seed)
    network = Tiny(30, 8, None, text=True)
    ids, others = torch.randint(30, (pairs, 6)), torch.randint(30, (pairs, 4))
    return network, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pair_input_ids": others,
        "pair_attention_mask": torch.ones_like(others),
    }


def _cosine(first: list[float], second: list[float]) -> float:
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_definition(smoothing: float) -> None:
    network, batch = _case(5)
    first = network.hidden({"input_ids": batch["input_ids"]}).tolist()
    second = network.hidden({"input_ids": batch["pair_input_ids"]}).tolist()
    scores = [[_cosine(a, b) / 0.2 for b in second] for a in first]
    turned = [list(column) for column in zip(*scores, strict=True)]
    forth = naive.cross_entropy(scores, range(5), smoothing)
    back = naive.cross_entropy(turned, range(5), smoothing)
    loss = _objective(smoothing=smoothing)(network, batch)
    assert loss.total.item() == pytest.approx((forth[0] + back[0]) / 2, rel=1e-4)
    assert loss.plain.item() == pytest.approx((forth[1] + back[1]) / 2, rel=1e-4)
    assert loss.count.item() == 5
    assert loss.correct is not None
    assert loss.correct.item() == forth[3]


def test_the_length_of_embeddings_does_not_matter() -> None:
    network, batch = _case(5)
    before = _objective()(network, batch).total.item()
    with torch.no_grad():
        network.norm.weight.mul_(7)
        network.norm.bias.mul_(7)
    assert _objective()(network, batch).total.item() == pytest.approx(before, rel=1e-5)


def test_pairs_that_are_alike_have_almost_no_loss_at_a_low_temperature() -> None:
    network, batch = _case(6)
    batch["pair_input_ids"] = batch["input_ids"]
    batch["pair_attention_mask"] = batch["attention_mask"]
    loss = _objective(temperature=0.01)(network, batch)
    assert loss.total.item() < 0.1
    assert loss.correct is not None
    assert loss.correct.item() == 6


def test_gradients_reach_the_network_from_both_sides() -> None:
    network, batch = _case(4)
    _objective()(network, batch).total.backward()
    grad = network.table.weight.grad
    assert grad is not None
    for side in ("input_ids", "pair_input_ids"):
        assert grad[batch[side][0]].abs().sum().item() > 0


def test_training_on_a_single_pair_is_refused() -> None:
    network, batch = _case(1)
    with pytest.raises(RecipeError, match=r"batch\.micro_sequences"):
        _objective()(network, batch)


def test_a_single_pair_at_the_end_of_validation_counts_for_nothing() -> None:
    network, batch = _case(1)
    with torch.no_grad():
        loss = _objective()(network, batch)
    assert [float(part) for part in loss if part is not None] == [0.0, 0.0, 0.0, 0.0]


def test_sums_over_micro_batches_are_sums_over_their_own_pairs() -> None:
    network, batch = _case(6)
    objective = _objective()
    parts: list[Loss] = [
        objective(network, {k: v[i : i + 3] for k, v in batch.items()}) for i in (0, 3)
    ]
    whole = objective(network, batch)
    assert sum(part.count.item() for part in parts) == whole.count.item()
    # More negatives are harder to tell apart.
    assert sum(part.plain.item() for part in parts) < whole.plain.item()


def test_under_autocast_the_similarities_are_float32() -> None:
    network, batch = _case(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _objective()(network, batch)
    assert loss.total.dtype == torch.float32
    exact = _objective()(network, batch)
    assert loss.total.item() == pytest.approx(exact.total.item(), rel=0.05)


def test_a_network_with_an_output_layer_can_learn_it_too() -> None:
    network, batch = _case(4)
    network.head = nn.Linear(8, 3)
    assert _objective()(network, batch).count.item() == 4
