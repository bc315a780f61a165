"""Micro-batches: the same items on any number of ranks, from any step, without a leak."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.texts import Numbers, Ragged
from trainer.data.batch import DataSet, Item
from trainer.data.loader import Loader, MicroBatch, Sweep
from trainer.errors import DataError, RecipeError


def items_of_step(dataset: DataSet, step: int, world: int) -> list[list[object]]:
    """Return the items of each micro-batch of a step, gathered over all ranks."""
    gathered: dict[int, list[object]] = {}
    for rank in range(world):
        with Loader(
            dataset, sequences=12, micro_sequences=3, seed=5, rank=rank, world=world
        ) as loader:
            for micro in loader.step(step):
                assert micro.step == step
                assert micro.index % world == rank
                assert micro.batch["input_ids"].tolist() == [list(item) for item in micro.items]
                gathered[micro.index] = list(micro.items)
    return [gathered[index] for index in sorted(gathered)]


@pytest.mark.parametrize("dataset", [Numbers(10), Ragged(37)])
@pytest.mark.parametrize("step", [0, 1, 4])
def test_ranks_share_what_one_rank_sees(dataset: Numbers, step: int) -> None:
    alone = items_of_step(dataset, step, 1)

    assert len(alone) == 4
    for world in (2, 4):
        shared = items_of_step(dataset, step, world)
        assert shared == alone


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 3))
def test_every_item_comes_once_an_epoch(size: int, micro: int, several: int) -> None:
    sequences = micro * several
    steps = -(-2 * size // sequences)
    with Loader(Numbers(size), sequences=sequences, micro_sequences=micro, seed=1) as loader:
        seen = [item for step in range(steps) for m in loader.step(step) for item in m.items]

    for epoch in (0, 1):
        assert sorted(index for at, index in seen if at == epoch) == list(range(size))


def test_a_loader_that_starts_late_goes_on_the_same() -> None:
    with Loader(Numbers(50), sequences=4, micro_sequences=2, seed=9) as first:
        whole = [[micro.items for micro in first.step(step)] for step in range(30)]
    with Loader(Numbers(50), sequences=4, micro_sequences=2, seed=9) as second:
        resumed = [[micro.items for micro in second.step(step)] for step in range(17, 30)]

    assert resumed == whole[17:]


def test_steps_may_be_asked_for_in_any_order() -> None:
    with Loader(Numbers(50), sequences=4, micro_sequences=2, seed=9) as loader:
        forward = {step: [micro.items for micro in loader.step(step)] for step in range(6)}
        backward = {step: [micro.items for micro in loader.step(step)] for step in (5, 2, 2, 3, 0)}

    assert all(forward[step] == items for step, items in backward.items())


def test_a_step_that_was_left_half_way_does_not_disturb_the_next() -> None:
    with Loader(Numbers(50), sequences=6, micro_sequences=2, seed=9) as loader:
        expected = [[micro.items for micro in loader.step(step)] for step in (0, 1)]
        half = loader.step(0)
        assert next(half).items == expected[0][0]
        del half

        assert [micro.items for micro in loader.step(0)] == expected[0]
        assert [micro.items for micro in loader.step(1)] == expected[1]


def test_rows_of_like_lengths_share_a_micro_batch() -> None:
    dataset = Ragged(64)
    with Loader(dataset, sequences=32, micro_sequences=8, seed=0) as loader:
        lengths = [[dataset.length(index) for _, index in micro.items] for micro in loader.step(0)]

    flat = [length for row in lengths for length in row]
    assert flat == sorted(flat)


class Broken(Numbers):
    """Fails at one item, as a damaged file would."""

    def item(self, epoch: int, index: int) -> Item:
        if index == 3:
            raise DataError("corpus.jsonl:4: there is no field 'text'")
        return super().item(epoch, index)


def test_an_error_in_the_background_surfaces_in_the_step() -> None:
    with Loader(Broken(8), sequences=8, micro_sequences=1, seed=0) as loader:
        for _ in range(2):
            with pytest.raises(DataError, match=r"corpus\.jsonl:4"):
                list(loader.step(0))


def test_closing_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    loader = Loader(Numbers(8), sequences=4, micro_sequences=1, seed=0)
    list(loader.step(0))
    assert set(threading.enumerate()) - before

    loader.close()

    assert set(threading.enumerate()) <= before
    assert len(list(loader.step(1))) == 4
    loader.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("sequences", "micro", "world", "figures"),
    [(10, 4, 1, r"10\) is no multiple .* \(4\)"), (12, 4, 2, "3 micro-batches, which 2 ranks")],
)
def test_a_batch_that_cannot_be_shared_evenly(
    sequences: int, micro: int, world: int, figures: str
) -> None:
    with pytest.raises(RecipeError, match=figures):
        Loader(Numbers(9), sequences=sequences, micro_sequences=micro, seed=0, world=world)


def test_an_empty_data_set() -> None:
    with pytest.raises(DataError, match="no items"):
        Loader(Numbers(0), sequences=1, micro_sequences=1, seed=0)
    with pytest.raises(DataError, match="no items"):
        Sweep(Numbers(0), micro_sequences=1)


def test_where_names_the_first_items() -> None:
    with Loader(Numbers(1), sequences=5, micro_sequences=5, seed=0) as loader:
        (micro,) = loader.step(0)

    assert loader.where(micro) == (
        "number 0 of epoch 0; number 0 of epoch 1; number 0 of epoch 2; and 2 more"
    )


def test_a_micro_batch_does_not_print_its_tokens() -> None:
    (micro,) = Sweep(Numbers(1), micro_sequences=1)

    assert "tensor" not in repr(micro)


def counted(batches: Sequence[MicroBatch]) -> list[tuple[int, int]]:
    return [item for micro in batches if micro.counts for item in micro.items]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 45))
def test_a_sweep_has_every_item_once_over_all_ranks(
    size: int, micro: int, world: int, limit: int
) -> None:
    ranks = [
        list(Sweep(Numbers(size), micro_sequences=micro, rank=rank, world=world, limit=limit))
        for rank in range(world)
    ]

    assert len({len(batches) for batches in ranks}) == 1
    seen = [item for batches in ranks for item in counted(batches)]
    assert len(seen) == len(set(seen)) == (min(limit, size) if limit else size)
    assert all(0 <= index < size and epoch == 0 for epoch, index in seen)


def test_a_filler_is_a_real_batch_that_does_not_count() -> None:
    sweep = Sweep(Numbers(5), micro_sequences=2, rank=1, world=2)

    real, filler = sweep
    assert len(sweep) == 2
    assert real.counts
    assert not filler.counts
    assert torch.equal(filler.batch["input_ids"], torch.tensor([[0, 0], [0, 1]]))


def test_a_limited_sweep_is_spread_over_the_set() -> None:
    (micro,) = Sweep(Numbers(100), micro_sequences=10, limit=4)

    assert [index for _, index in micro.items] == [0, 25, 50, 75]


def test_a_sweep_goes_by_length_where_lengths_differ() -> None:
    dataset = Ragged(20)
    sweep = Sweep(dataset, micro_sequences=4)

    lengths = [dataset.length(index) for _, index in counted(list(sweep))]
    assert lengths == sorted(lengths)
    assert counted(list(sweep)) == counted(list(sweep))
