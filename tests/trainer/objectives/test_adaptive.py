"""The hierarchical softmax: a true distribution, exact, and torch's own to rounding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainer.errors import RecipeError
from trainer.objectives.adaptive import AdaptiveOutput, default_cutoffs


def _layer(
    seed: int, width: int, vocabulary: int, cutoffs: tuple[int, ...]
) -> tuple[AdaptiveOutput, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    layer = AdaptiveOutput(width, vocabulary, cutoffs)
    return layer, torch.randn(12, width) * 2, torch.randint(vocabulary, (12,))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    vocabulary=st.integers(12, 80),
    cutoffs=st.sets(st.integers(1, 11), min_size=1, max_size=4),
)
def test_probabilities_sum_to_one_and_the_loss_is_their_logarithm(
    seed: int, vocabulary: int, cutoffs: set[int]
) -> None:
    layer, hidden, targets = _layer(seed, 8, vocabulary, tuple(sorted(cutoffs)))
    logs = layer(hidden)
    assert logs.shape == (12, vocabulary)
    torch.testing.assert_close(logs.exp().sum(dim=-1), torch.ones(12))
    loss = layer.negative_log_likelihood(hidden, targets)
    expected = -logs.gather(1, targets.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_it_computes_what_torchs_adaptive_softmax_computes() -> None:
    layer, hidden, targets = _layer(4, 16, 60, (10, 30))
    peer = nn.AdaptiveLogSoftmaxWithLoss(16, 60, [10, 30])
    peer.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(hidden), peer.log_prob(hidden))
    torch.testing.assert_close(
        layer.negative_log_likelihood(hidden, targets), -peer(hidden, targets).output
    )


def test_one_cluster_is_the_plain_softmax() -> None:
    layer, hidden, targets = _layer(5, 8, 40, ())
    assert layer.cutoffs == ()
    assert len(layer.tail) == 0
    logits = hidden @ layer.head.weight.t()
    torch.testing.assert_close(layer(hidden), logits.log_softmax(dim=-1))
    torch.testing.assert_close(
        layer.negative_log_likelihood(hidden, targets),
        nn.functional.cross_entropy(logits, targets, reduction="none"),
    )


def test_every_parameter_has_a_gradient_even_where_no_target_fell() -> None:
    layer, hidden, _ = _layer(6, 8, 60, (10, 30))
    targets = torch.zeros(12, dtype=torch.int64)  # all in the head
    layer.negative_log_likelihood(hidden, targets).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert name.startswith("head") == bool(parameter.grad.abs().sum() > 0), name


def test_no_target_at_all_is_a_loss_of_nothing() -> None:
    layer, hidden, targets = _layer(7, 8, 60, (10, 30))
    sums = layer.sums(hidden[:0], targets[:0], count_correct=True)
    sums.total.backward()
    assert sums.total.item() == 0.0
    assert sums.correct is not None
    assert sums.correct.item() == 0


def test_gradients_are_those_of_the_full_distribution() -> None:
    layer, hidden, targets = _layer(8, 8, 60, (10, 30))
    hidden.requires_grad_()
    layer.negative_log_likelihood(hidden, targets).sum().backward()
    sparse = [hidden.grad, *(p.grad for p in layer.parameters())]
    hidden.grad = None
    layer.zero_grad()
    (-layer(hidden).gather(1, targets.unsqueeze(1)).sum()).backward()
    for ours, exact in zip(
        sparse, [hidden.grad, *(p.grad for p in layer.parameters())], strict=False
    ):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)


def test_correct_targets_are_those_with_the_highest_probability() -> None:
    layer, _, _ = _layer(9, 8, 60, (10, 30))
    hidden, targets = torch.randn(300, 8) * 20, torch.randint(60, (300,))
    targets[:100] = layer(hidden[:100]).argmax(dim=-1)
    sums = layer.sums(hidden, targets, count_correct=True)
    assert sums.correct is not None
    assert sums.correct.item() == int((layer(hidden).argmax(dim=-1) == targets).sum()) >= 100


def test_under_autocast_the_probabilities_are_float32_and_still_sum_to_one() -> None:
    layer, hidden, targets = _layer(10, 16, 60, (10, 30))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logs = layer(hidden)
        loss = layer.negative_log_likelihood(hidden, targets)
    assert logs.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(logs.exp().sum(dim=-1), torch.ones(12))
    torch.testing.assert_close(loss, -logs.gather(1, targets.unsqueeze(1)).squeeze(1))


def test_default_cutoffs_follow_the_vocabulary() -> None:
    assert default_cutoffs(50_000) == (2_000, 10_000)
    assert default_cutoffs(100) == ()
    assert AdaptiveOutput(8, 5_000).cutoffs == (200, 1_000)
    for size in (4_000, 4_001, 250_000):
        low, high = default_cutoffs(size)
        assert 0 < low < high < size


@pytest.mark.parametrize("cutoffs", [(10, 10), (30, 10), (60,), (10, 61), (0,)])
def test_cutoffs_that_do_not_split_the_vocabulary_are_refused(cutoffs: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match=r"objective\.cutoffs"):
        AdaptiveOutput(8, 60, cutoffs)


def test_width_below_the_division_still_has_clusters() -> None:
    layer, hidden, targets = _layer(11, 3, 60, (10, 30))
    assert math.isfinite(layer.sums(hidden, targets, count_correct=False).total.item())
