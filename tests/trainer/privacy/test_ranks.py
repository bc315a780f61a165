"""Two gloo ranks, copies and shards: sums of clipped gradients are those of one rank."""

from __future__ import annotations

import sys

from trainer.distribution.launch import launch


def test_sums_of_two_ranks_are_those_of_one() -> None:
    assert launch([sys.executable, "-m", "tests.trainer.privacy.rank_gradients"], 2) == 0


def test_sharded_updates_are_those_of_one_rank_and_each_coordinate_is_noised_once() -> None:
    assert launch([sys.executable, "-m", "tests.trainer.privacy.rank_updates"], 2) == 0
