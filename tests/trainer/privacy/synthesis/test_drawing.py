"""Tokens are drawn from where the settings allow, with the chances that the logits give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor

from security.errors import UsageError
from trainer.privacy.synthesis.drawing import draw_tokens
from trainer.privacy.synthesis.errors import SynthesisError
from trainer.privacy.synthesis.settings import Sampling

ROWS = 400


def drawn(logits: list[float], seed: int = 5, rows: int = ROWS, **values: object) -> Tensor:
    sampling = Sampling(**values)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    return draw_tokens(torch.tensor([logits] * rows), sampling, generator)


logits_of_some = st.lists(
    st.floats(-30, 30, allow_nan=False, width=32), min_size=2, max_size=12, unique=True
)


@settings(max_examples=40, deadline=None)
@given(logits=logits_of_some, k=st.integers(1, 12))
def test_top_k_draws_from_the_k_best(logits: list[float], k: int) -> None:
    best = set(torch.tensor(logits).topk(min(k, len(logits))).indices.tolist())
    assert set(drawn(logits, rows=50, top_k=k).tolist()) <= best


@settings(max_examples=40, deadline=None)
@given(logits=logits_of_some, p=st.floats(0.01, 1.0))
def test_top_p_draws_from_the_fewest_that_reach_the_share(logits: list[float], p: float) -> None:
    chances = torch.tensor(logits).softmax(-1)
    ordered = chances.sort(descending=True)
    needed = int((ordered.values.cumsum(0) - ordered.values < p).sum())
    allowed = set(ordered.indices[: max(1, needed)].tolist())
    assert set(drawn(logits, rows=50, top_p=p).tolist()) <= allowed


def test_without_limits_the_chances_are_those_of_the_model() -> None:
    logits = [0.0, 1.0, 2.0, -1.0]
    expected = torch.tensor(logits, dtype=torch.float64).div(0.7).softmax(-1)
    counts = drawn(logits, rows=20_000, temperature=0.7).bincount(minlength=4)
    _, p = stats.chisquare(counts.numpy(), (expected * 20_000).numpy())
    assert p > 1e-4


def test_a_temperature_of_zero_takes_the_likeliest() -> None:
    assert set(drawn([0.0, 3.0, 2.9], temperature=0).tolist()) == {1}


def test_a_tiny_temperature_is_no_overflow() -> None:
    assert set(drawn([0.0, 300.0, 2.9], temperature=1e-30).tolist()) == {1}


def test_what_may_not_be_drawn_never_is() -> None:
    barred = [-float("inf"), 0.0, -float("inf"), 0.0]
    assert set(drawn(barred, temperature=100).tolist()) == {1, 3}
    assert set(drawn(barred, top_k=3).tolist()) == {1, 3}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_weights_are_told(bad: float) -> None:
    with pytest.raises(SynthesisError, match="weights"):
        drawn([0.0, bad])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.01}, "top-p"),
        ({"top_k": -1}, "top-k"),
        ({"max_tokens": -1}, "max-tokens"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**53}, "seed"),
        ({"batch": 0}, "batch"),
        ({"batch": 5000}, "batch"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Sampling(**values)  # type: ignore[arg-type]
