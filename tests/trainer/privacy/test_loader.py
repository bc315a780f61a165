"""Private micro-batches: the draw in equal shares, fillers of weight 0, users' records."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.distribution.once import made_once
from tests.trainer.privacy import draw_many
from tests.trainer.privacy.statistics import fits_chance
from trainer.data.batch import Batch, Item
from trainer.distribution.group import Group
from trainer.distribution.launch import launch
from trainer.errors import RecipeError
from trainer.privacy.errors import PrivacyError
from trainer.privacy.loader import PrivateLoader, PrivateMicroBatch


class Records:
    """Records of different lengths; a value says which record and epoch it is of."""

    fingerprint = "0" * 64

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def length(self, index: int) -> int:
        return 1 + index * 7 % 5

    def item(self, epoch: int, index: int) -> Item:
        return {"ids": np.full(self.length(index), 1000 * epoch + index)}

    def where(self, epoch: int, index: int) -> str:
        return f"record {index} of epoch {epoch}"

    def collate(self, items: Sequence[Item]) -> Batch:
        longest = max(item["ids"].size for item in items)
        rows = [
            np.pad(item["ids"], (0, longest - item["ids"].size), constant_values=-1)
            for item in items
        ]
        return {"input_ids": torch.from_numpy(np.stack(rows))}


class Together(Group):
    """One rank of several that take turns in one process: the first leaves what it says."""

    def __init__(self, rank: int, world: int, said: list[Any]) -> None:
        self.rank = rank
        self.world = world
        self.device = torch.device("cpu")
        self._said = said

    def broadcast(self, value: Any) -> Any:
        if self.rank == 0:
            self._said.append(json.dumps(value))
        return json.loads(self._said[-1])


def draw_together(
    size: int, groups: Sequence[Sequence[int]] | None, world: int, micro: int, **plan: Any
) -> list[list[PrivateMicroBatch]]:
    """Return the micro-batches of one update, by rank."""
    said: list[Any] = []
    data = Records(size)
    made = draw_many.make_plan(units=size if groups is None else len(groups), **plan)
    return [
        list(PrivateLoader(data, groups, made, micro, Together(rank, world, said)).step(3))
        for rank in range(world)
    ]


@settings(max_examples=100, deadline=None)
@given(
    size=st.integers(1, 60), world=st.integers(1, 4), micro=st.integers(1, 9), share=st.floats(0, 1)
)
def test_every_rank_runs_as_many_rows(size: int, world: int, micro: int, share: float) -> None:
    ranks = draw_together(size, None, world, micro, expected=max(1, round(share * size)))
    numbers = {len(each) for each in ranks}
    rows = {micro_batch.weights.numel() for each in ranks for micro_batch in each}
    assert len(numbers) == len(rows) == 1
    assert numbers != {0}
    assert max(rows) <= micro
    indices = sorted(micro_batch.index for each in ranks for micro_batch in each)
    assert indices == list(range(world * numbers.pop()))
    drawn = [item for each in ranks for micro_batch in each for item in micro_batch.items]
    assert len(drawn) == len(set(drawn)) == sum(float(m.weights.sum()) for r in ranks for m in r)
    # No more micro-batches than the draw needs.
    assert len(indices) <= max(world, len(drawn) // micro + world)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 60), world=st.integers(1, 3), micro=st.integers(1, 9))
def test_rows_are_the_records_and_fillers_weigh_nothing(size: int, world: int, micro: int) -> None:
    ranks = draw_together(size, None, world, micro, expected=max(1, size // 3))
    lengths: list[int] = []
    for micro_batch in sorted((m for each in ranks for m in each), key=lambda m: m.index):
        ids, weights = micro_batch.batch["input_ids"], micro_batch.weights
        assert weights.dtype == torch.float32
        assert weights.tolist() == [1.0] * len(micro_batch.items) + [0.0] * (
            weights.numel() - len(micro_batch.items)
        )
        for row, (epoch, index) in zip(ids, micro_batch.items, strict=False):
            # The update is the epoch, so that augmentation differs each time.
            assert epoch == 3
            assert row[0] == 3000 + index
            lengths.append(1 + index * 7 % 5)
        # A filler makes no batch longer.
        assert (ids[:, -1] != -1).any()
    assert lengths == sorted(lengths)


def test_an_empty_draw_is_an_update_too() -> None:
    ranks = draw_together(10**6, None, 2, 8, expected=1e-9)
    for (micro_batch,) in ranks:
        assert micro_batch.items == ()
        assert micro_batch.weights.tolist() == [0.0]
        assert micro_batch.batch["input_ids"].shape[0] == 1


def test_a_user_is_drawn_with_their_records_up_to_the_bound() -> None:
    groups = [[4, 0, 9], [1], [], [2, 3, 5, 6, 7, 8]]
    (micro_batches,) = draw_together(10, groups, 1, 100, expected=4, contributions=2, unit="user")
    drawn = sorted(index for micro in micro_batches for _, index in micro.items)
    assert drawn == [0, 1, 2, 3, 4]


def test_users_are_drawn_as_a_whole() -> None:
    groups = [[2 * user, 2 * user + 1] for user in range(50)]
    data, said = Records(100), list[Any]()
    plan = draw_many.make_plan(units=50, expected=10, contributions=2, unit="user")
    loader = PrivateLoader(data, groups, plan, 7, Together(0, 1, said))
    users = 0
    for step in range(200):
        drawn = {index for micro in loader.step(step) for _, index in micro.items}
        assert all((index ^ 1) in drawn for index in drawn)
        users += len(drawn) // 2
        assert len(drawn) // 2 <= plan.cap
    # The cap of 50 cuts nothing here.
    assert fits_chance(users, 200 * 50, 0.2)


def test_a_step_that_is_asked_for_again_is_drawn_again() -> None:
    said: list[Any] = []
    plan = draw_many.make_plan(units=1000, expected=300)
    loader = PrivateLoader(Records(1000), None, plan, 64, Together(0, 1, said))
    first, second = ([m.items for m in loader.step(5)] for _ in range(2))
    assert first != second


def test_only_the_first_rank_draws() -> None:
    said = ["[1, 5]"]
    plan = draw_many.make_plan(units=10, expected=9)
    loader = PrivateLoader(Records(10), None, plan, 1, Together(1, 2, said))
    (micro_batch,) = loader.step(0)
    # The second of two records, the shorter one being first.
    assert Records(10).length(5) < Records(10).length(1)
    assert [index for _, index in micro_batch.items] == [1]


def test_who_was_drawn_is_not_printed() -> None:
    ((micro_batch,),) = draw_together(3, None, 1, 8, expected=3)
    assert len(micro_batch.items) == 3
    assert repr(micro_batch) == "PrivateMicroBatch(index=0)"


@pytest.mark.parametrize(
    ("groups", "units", "message"),
    [
        (None, 9, r"plan is for 9 records and the data has 10"),
        ([[0], [1]], 3, r"plan is for 3 users and the data has 2"),
        ([[0, 1], [1]], 2, "record 1 is given to two users"),
        ([[0, 0], [1]], 2, "record 0 is given to two users"),
        ([[0], [10]], 2, "no record 10"),
        ([[0], [-1]], 2, "no record -1"),
    ],
)
def test_a_plan_for_other_data_is_refused(groups, units: int, message: str) -> None:
    plan = draw_many.make_plan(
        units=units, expected=1, contributions=1 if groups is None else 2,
        unit="record" if groups is None else "user",
    )  # fmt: skip
    with pytest.raises(PrivacyError, match=message):
        PrivateLoader(Records(10), groups, plan, 4, Together(0, 1, []))


def test_micro_batches_of_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="hold nothing"):
        PrivateLoader(
            Records(10), None, draw_many.make_plan(units=10, expected=5), 0, Together(0, 1, [])
        )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two real ranks saw in 2,000 updates at a tiny q."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.trainer.privacy.draw_many", str(folder)]
        assert launch(command, 2) == 0

    folder = made_once(tmp_path_factory, "private-draws", make)
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen


@pytest.mark.timeout(600)
def test_ranks_never_wait_for_one_another_in_vain(two_ranks: dict[str, Any]) -> None:
    first, second = two_ranks["micro_batches"]
    assert len(first) == draw_many.STEPS
    assert first == second
    # Most updates are empty, and some are not: both kinds were run.
    drawn = two_ranks["drawn"]
    assert 0 < sum(map(len, drawn)) < draw_many.STEPS
    # The sums over ranks add up to what was drawn.
    assert two_ranks["summed"] == [len(each) for each in drawn]


@pytest.mark.timeout(600)
def test_draws_are_as_likely_as_the_plan_says(two_ranks: dict[str, Any]) -> None:
    drawn = two_ranks["drawn"]
    tries = draw_many.STEPS * draw_many.UNITS
    assert fits_chance(sum(map(len, drawn)), tries, draw_many.EXPECTED / draw_many.UNITS)
    # Neither rank has draws of its own, and no record is drawn by both in one update.
    assert all(len(each) == len(set(each)) for each in drawn)
