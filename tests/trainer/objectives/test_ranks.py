"""Two gloo ranks, DDP and FSDP: gradients are those of one rank on the whole batch."""

from __future__ import annotations

import sys

from trainer.distribution.launch import launch


def test_gradients_of_two_ranks_are_those_of_one() -> None:
    assert launch([sys.executable, "-m", "tests.trainer.objectives.rank_gradients"], 2) == 0
