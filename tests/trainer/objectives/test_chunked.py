"""The chunked cross entropy against the full one and against a naive loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.trainer.objectives import naive
from trainer.objectives import chunked
from trainer.objectives.chunked import Sums, chunked_cross_entropy, full_cross_entropy


def _inputs(
    seed: int, rows: int, width: int, classes: int, *, bias: bool, ignored: float = 0.0
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(classes, width, generator=generator)
    added = torch.randn(classes, generator=generator) if bias else None
    targets = torch.randint(classes, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = -100
    return hidden, weight, added, targets


def _leaves(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.clone().requires_grad_() for t in tensors]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(0, 40),
    width=st.integers(1, 24),
    classes=st.integers(2, 90),
    chunk=st.integers(1, 48),
    bias=st.booleans(),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    scale=st.sampled_from([1.0, 0.37]),
)
def test_sums_and_gradients_are_those_of_the_full_matrix(
    seed: int,
    rows: int,
    width: int,
    classes: int,
    chunk: int,
    bias: bool,
    ignored: float,
    smoothing: float,
    scale: float,
) -> None:
    *values, targets = _inputs(seed, rows, width, classes, bias=bias, ignored=ignored)
    hidden, weight, added = _leaves(*values)
    assert hidden is not None
    assert weight is not None
    logits = functional.linear(hidden, weight, added)
    full = full_cross_entropy(logits, targets, label_smoothing=smoothing, count_correct=True)
    (full.total * scale).backward()
    mine = _leaves(*values)
    assert mine[0] is not None
    assert mine[1] is not None
    pieces: Sums = chunked_cross_entropy(
        mine[0],
        mine[1],
        mine[2],
        targets,
        label_smoothing=smoothing,
        chunk_tokens=chunk,
        count_correct=True,
    )
    (pieces.total * scale).backward()
    torch.testing.assert_close(pieces.total, full.total, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(pieces.plain, full.plain, rtol=1e-5, atol=1e-4)
    assert pieces.correct is not None
    assert full.correct is not None
    assert pieces.correct.item() == full.correct.item()
    for ours, theirs in zip(mine, (hidden, weight, added), strict=True):
        if ours is not None and theirs is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_both_ways_are_the_definition(smoothing: float) -> None:
    hidden, weight, bias, targets = _inputs(3, 13, 5, 7, bias=True, ignored=0.3)
    logits = functional.linear(hidden, weight, bias)
    total, plain, _, correct = naive.cross_entropy(logits.tolist(), targets.tolist(), smoothing)
    full = full_cross_entropy(logits, targets, label_smoothing=smoothing, count_correct=True)
    pieces: Sums = chunked_cross_entropy(
        hidden,
        weight,
        bias,
        targets,
        label_smoothing=smoothing,
        chunk_tokens=4,
        count_correct=True,
    )
    for sums in (full, pieces):
        assert sums.total.item() == pytest.approx(total, rel=1e-5)
        assert sums.plain.item() == pytest.approx(plain, rel=1e-5)
        assert sums.correct is not None
        assert sums.correct.item() == correct


def test_correct_targets_are_only_counted_when_asked_for() -> None:
    hidden, weight, bias, targets = _inputs(0, 6, 3, 5, bias=False)
    sums = chunked_cross_entropy(
        hidden, weight, bias, targets, label_smoothing=0, chunk_tokens=2, count_correct=False
    )
    assert sums.correct is None
    logits = hidden @ weight.t()
    assert (
        full_cross_entropy(logits, targets, label_smoothing=0, count_correct=False).correct is None
    )


def test_large_scores_do_not_overflow() -> None:
    hidden, weight, _, targets = _inputs(1, 8, 4, 20, bias=False)
    hidden, weight = hidden * 300, weight * 300
    full = full_cross_entropy(
        hidden @ weight.t(), targets, label_smoothing=0.1, count_correct=False
    )
    pieces = chunked_cross_entropy(
        hidden, weight, None, targets, label_smoothing=0.1, chunk_tokens=3, count_correct=False
    )
    assert torch.isfinite(full.total)
    torch.testing.assert_close(pieces.total, full.total, rtol=1e-5, atol=0)


def test_a_state_that_is_no_number_makes_a_loss_that_is_none() -> None:
    hidden, weight, _, targets = _inputs(1, 8, 4, 20, bias=False)
    hidden[5, 0] = float("nan")
    sums = chunked_cross_entropy(
        hidden, weight, None, targets, label_smoothing=0, chunk_tokens=3, count_correct=False
    )
    assert torch.isnan(sums.total)


def test_under_autocast_the_loss_is_float32_and_the_gradients_have_the_parameters_type() -> None:
    *values, targets = _inputs(5, 64, 32, 200, bias=True, ignored=0.2)
    grads = []
    for autocast in (False, True):
        hidden, weight, bias = _leaves(*values)
        assert hidden is not None
        assert weight is not None
        assert bias is not None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            sums = chunked_cross_entropy(
                hidden,
                weight,
                bias,
                targets,
                label_smoothing=0.1,
                chunk_tokens=24,
                count_correct=False,
            )
        assert sums.total.dtype == sums.plain.dtype == torch.float32
        sums.total.backward()
        for leaf in (hidden, weight, bias):
            assert leaf.grad is not None
            assert leaf.grad.dtype == torch.float32
        grads.append((sums.total.detach(), hidden.grad, weight.grad, bias.grad))
    for exact, rounded in zip(*grads, strict=True):
        assert exact is not None
        assert rounded is not None
        # bfloat16 has 8 bits: the products are rounded, the sums are not.
        assert ((exact - rounded).norm() / exact.norm()).item() < 0.02
    assert grads[0][0] != grads[1][0]  # autocast did change the products


def test_bfloat16_parameters_get_bfloat16_gradients_and_a_float32_loss() -> None:
    hidden, weight, _, targets = _inputs(5, 16, 8, 50, bias=False)
    low_hidden, low_weight = _leaves(hidden.bfloat16(), weight.bfloat16())
    assert low_hidden is not None
    assert low_weight is not None
    sums = chunked_cross_entropy(
        low_hidden, low_weight, None, targets, label_smoothing=0, chunk_tokens=5,
        count_correct=False,
    )  # fmt: skip
    sums.total.backward()
    assert sums.total.dtype == torch.float32
    assert low_hidden.grad is not None
    assert low_hidden.grad.dtype == torch.bfloat16
    assert low_weight.grad is not None
    assert low_weight.grad.dtype == torch.bfloat16


def test_a_frozen_matrix_gets_no_gradient_and_the_hidden_states_get_theirs() -> None:
    *values, targets = _inputs(2, 9, 4, 11, bias=False)
    hidden = values[0].clone().requires_grad_()  # type: ignore[union-attr]
    weight = values[1]
    assert weight is not None
    chunked_cross_entropy(
        hidden, weight, None, targets, label_smoothing=0, chunk_tokens=4, count_correct=False
    ).total.backward()
    reference = values[0].clone().requires_grad_()  # type: ignore[union-attr]
    functional.cross_entropy(reference @ weight.t(), targets, reduction="sum").backward()
    assert weight.grad is None
    torch.testing.assert_close(hidden.grad, reference.grad, rtol=1e-5, atol=1e-5)


def test_without_gradients_nothing_is_kept() -> None:
    hidden, weight, _, targets = _inputs(2, 9, 4, 11, bias=False)
    hidden.requires_grad_()
    with torch.no_grad():
        sums = chunked_cross_entropy(
            hidden, weight, None, targets, label_smoothing=0, chunk_tokens=4, count_correct=True
        )
    assert not sums.total.requires_grad


def test_a_second_backward_is_refused_rather_than_wrong() -> None:
    hidden, weight, _, targets = _inputs(2, 9, 4, 11, bias=False)
    hidden.requires_grad_()
    total = chunked_cross_entropy(
        hidden, weight, None, targets, label_smoothing=0, chunk_tokens=4, count_correct=False
    ).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        total.backward()


def test_targets_and_states_of_different_number_are_refused() -> None:
    hidden, weight, _, targets = _inputs(2, 9, 4, 11, bias=False)
    with pytest.raises(ValueError, match="8 targets for 9 hidden states"):
        chunked_cross_entropy(
            hidden, weight, None, targets[:-1], label_smoothing=0, chunk_tokens=4,
            count_correct=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "smoothing"),
    [
        ("aot_eager", 0.1),
        pytest.param("inductor", 0.0, marks=pytest.mark.slow),
        pytest.param("inductor", 0.1, marks=pytest.mark.slow),
    ],
)
def test_the_compiled_inside_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, backend: str, smoothing: float
) -> None:
    # "aot_eager" traces and rewrites as the real compiler does, and then skips the C++.
    judge = torch.compile(chunked._judge, backend=backend)
    monkeypatch.setattr(chunked, "_compiled_judge", lambda: judge)
    *values, targets = _inputs(7, 21, 6, 30, bias=True, ignored=0.2)
    results = []
    for compiled in (False, True):
        hidden, weight, bias = _leaves(*values)
        assert hidden is not None
        assert weight is not None
        assert bias is not None
        sums = chunked_cross_entropy(
            hidden,
            weight,
            bias,
            targets,
            label_smoothing=smoothing,
            chunk_tokens=8,
            count_correct=True,
            compiled=compiled,
        )
        sums.total.backward()
        results.append((*sums, hidden.grad, weight.grad, bias.grad))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
