"""Truncated Poisson sampling: each unit's chance, the sizes, the cut, and independence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.privacy.statistics import binomial, fits_chance, fits_counts
from trainer.privacy.errors import PrivacyError
from trainer.privacy.randomness import SecretGenerator
from trainer.privacy.sampling import TruncatedPoisson


@settings(max_examples=80, deadline=None)
@given(units=st.integers(1, 300), probability=st.floats(1e-9, 1.0), data=st.data())
def test_a_draw_holds_each_unit_once_at_most(units: int, probability: float, data) -> None:
    cap = data.draw(st.none() | st.integers(1, 300))
    drawn = TruncatedPoisson(units, probability, cap, SecretGenerator()).draw()
    assert drawn.dtype == np.int64
    assert (np.diff(drawn) > 0).all()
    assert ((drawn >= 0) & (drawn < units)).all()
    assert drawn.size <= (cap or units)


def test_sizes_and_units_without_a_cut() -> None:
    units, probability, draws = 50, 0.1, 20_000
    sampler = TruncatedPoisson(units, probability, None, SecretGenerator())
    drawn = [sampler.draw() for _ in range(draws)]
    sizes = np.bincount(np.clip([each.size for each in drawn], 1, 10), minlength=11)[1:]
    law = [binomial(size, units, probability) for size in range(units + 1)]
    expected = [sum(law[:2]), *law[2:10], sum(law[10:])]
    assert fits_counts(sizes, [draws * chance for chance in expected])
    # Units are drawn in pairs as often as independent coins say.
    both = sum(bool({3, 41} <= set(each.tolist())) for each in drawn)
    assert fits_chance(both, draws, probability**2)
    # And one update says nothing of the next.
    again = sum(bool(7 in a and 7 in b) for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert fits_chance(again, draws // 2, probability**2)


def test_a_draw_that_is_too_large_is_cut_evenly() -> None:
    units, cap, draws = 10, 4, 8_000
    sampler = TruncatedPoisson(units, 0.7, cap, SecretGenerator())
    drawn = [sampler.draw() for _ in range(draws)]
    assert max(each.size for each in drawn) == cap
    law = [binomial(size, units, 0.7) for size in range(units + 1)]
    full = sum(each.size == cap for each in drawn)
    assert fits_chance(full, draws, sum(law[cap:]))
    # E[min(size, cap)] / units is the chance of each unit, the first like the last.
    mean = sum(min(size, cap) * law[size] for size in range(units + 1)) / units
    for unit in range(units):
        assert fits_chance(sum(unit in each for each in drawn), draws, mean)


def test_every_unit_with_certainty() -> None:
    sampler = TruncatedPoisson(5, 1.0, None, SecretGenerator())
    assert sampler.draw().tolist() == [0, 1, 2, 3, 4]
    assert TruncatedPoisson(5, 1.0, 2, SecretGenerator()).draw().size == 2


def test_an_empty_draw() -> None:
    assert TruncatedPoisson(5, 1e-15, 3, SecretGenerator()).draw().size == 0


def test_samplers_differ() -> None:
    first, second = (
        TruncatedPoisson(1000, 0.5, None, SecretGenerator()).draw().tolist() for _ in range(2)
    )
    assert first != second


@pytest.mark.parametrize(
    ("units", "probability", "cap", "message"),
    [
        (0, 0.5, None, "0 units"),
        (5, 0.0, None, "sampling probability"),
        (5, 1.01, None, "sampling probability"),
        (5, float("nan"), None, "sampling probability"),
        (5, 0.5, 0, "drawn by nobody"),
    ],
)
def test_samplers_that_are_none(units: int, probability: float, cap, message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        TruncatedPoisson(units, probability, cap, SecretGenerator())
