"""The order of items: permutations that need no memory, and noise that needs no state."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.order import item_at, mix, noise, permute

FIRST_ORDER = [1, 8, 7, 2, 0, 4, 9, 6, 5, 3]
LARGE = 81799643425
MIXED = 8457334684515183916
NOISE = [3248035137, 3631919551, 2316807653]

SEEDS = st.integers(min_value=0, max_value=2**63 - 1)


@settings(deadline=None)
@given(SEEDS, st.integers(0, 1000), st.integers(1, 700))
def test_every_item_comes_once_in_an_epoch(seed: int, epoch: int, size: int) -> None:
    order = [permute(seed, epoch, size, position) for position in range(size)]

    assert sorted(order) == list(range(size))


@settings(deadline=None)
@given(SEEDS, st.integers(0, 10**6), st.integers(1, 2**62), st.data())
def test_any_position_of_any_size_is_answered(
    seed: int, epoch: int, size: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, size - 1))

    assert 0 <= permute(seed, epoch, size, position) < size


@pytest.mark.parametrize("position", [-1, 5, 6])
def test_a_position_outside_the_epoch_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match="not below 5"):
        permute(0, 0, 5, position)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(permute(seed, epoch, 50, position) for position in range(50))

    assert len({order(seed, epoch) for seed in range(10) for epoch in range(10)}) == 100


def test_items_are_spread_evenly_over_positions() -> None:
    """Chi-square over 2,000 epochs: position 0 to 9 against item 0 to 9.

    81 degrees of freedom have a mean of 81; beyond 150 is one chance in 100,000. The
    seeds are fixed, so the figure is the same in every run.
    """
    epochs, size = 2000, 10
    counts = np.zeros((size, size))
    for epoch, position in itertools.product(range(epochs), range(size)):
        counts[position, permute(7, epoch, size, position)] += 1

    expected = epochs / size
    assert ((counts - expected) ** 2 / expected).sum() < 150


def test_neighbours_do_not_stay_neighbours() -> None:
    size = 10_000
    order = np.array([permute(3, 0, size, position) for position in range(size)])

    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 0.05


def test_the_order_is_what_it_was() -> None:
    """Resuming an older run depends on it: these figures may never change."""
    assert [permute(1337, 0, 10, position) for position in range(10)] == FIRST_ORDER
    assert permute(1337, 5, 10**12, 123_456_789) == LARGE
    assert mix(1, 2, 3) == MIXED
    assert noise(1, 2, 3).integers(0, 1 << 32, 3).tolist() == NOISE


def test_positions_run_through_epochs() -> None:
    stream = [item_at(0, 3, position) for position in range(9)]

    assert [epoch for epoch, _ in stream] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for epoch in range(3):
        assert sorted(index for at, index in stream if at == epoch) == [0, 1, 2]


@settings(deadline=None)
@given(st.lists(SEEDS, min_size=1, max_size=4))
def test_mixed_seeds_fit_torch(values: list[int]) -> None:
    assert 0 <= mix(*values) < 2**63


def test_mixing_depends_on_the_order_of_the_values() -> None:
    mixed = {mix(*values) for values in itertools.product(range(8), repeat=3)}

    assert len(mixed) == 512


def test_noise_is_the_same_in_another_process() -> None:
    code = "from trainer.data.order import noise; print(noise(5, 1, 9).random(4).tolist())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert child.stdout.strip() == str(noise(5, 1, 9).random(4).tolist())


def test_noise_of_each_item_is_its_own() -> None:
    drawn = {tuple(noise(0, epoch, index).random(2)) for epoch in range(20) for index in range(20)}

    assert len(drawn) == 400
