"""Run by two ranks: draws 2,000 times at a tiny q, with a collective for every micro-batch.

python -m tests.trainer.privacy.draw_many FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from trainer.data.batch import Batch, Item
from trainer.distribution.environment import resolve
from trainer.distribution.group import connect
from trainer.privacy.loader import PrivateLoader
from trainer.privacy.plan import PrivacyPlan

STEPS = 2000
UNITS = 400
# Records of an update, expected: 86% of the updates are empty.
EXPECTED = 0.15


def make_plan(
    *, units: int, expected: float, contributions: int = 1, unit: str = "record"
) -> PrivacyPlan:
    """A plan as the loader needs it; the rest is any."""
    return PrivacyPlan(
        unit=unit,
        user_field="author" if unit == "user" else "",
        units=units,
        contributions=contributions,
        # The loader takes the chance from here; less than one record is for tests alone.
        expected_batch=expected,  # type: ignore[arg-type]
        cap=units,
        steps=10,
        noise_multiplier=1.0,
        clipping="flat",
        clip_norm=1.0,
        noise="gaussian",
        delta=1e-5,
        epsilon=8.0,
    )


class Numbers:
    """Records that are their own number."""

    fingerprint = "0" * 64

    def __len__(self) -> int:
        return UNITS

    def item(self, epoch: int, index: int) -> Item:
        return {"ids": np.array([index])}

    def where(self, epoch: int, index: int) -> str:
        return f"record {index}"

    def collate(self, items: Sequence[Item]) -> Batch:
        return {"input_ids": torch.from_numpy(np.stack([item["ids"] for item in items]))}


def main(folder: Path) -> None:
    with connect(resolve(os.environ), torch.device("cpu"), failure_seconds=15) as group:
        plan = make_plan(units=UNITS, expected=EXPECTED)
        loader = PrivateLoader(Numbers(), None, plan, 4, group)
        numbers, mine, summed = [], [], []
        for step in range(STEPS):
            total = torch.zeros(1)
            drawn: list[int] = []
            count = 0
            for micro in loader.step(step):
                # As a sharded network does: every forward pass waits for all ranks.
                total += group.sum_(micro.weights.sum().reshape(1))
                drawn += [index for _, index in micro.items]
                count += 1
            numbers.append(count)
            mine.append(drawn)
            summed.append(int(total))
        everyone = group.gather([numbers, mine])
        if group.is_first:
            drawn_together = [a + b for a, b in zip(*(each[1] for each in everyone), strict=True)]
            (folder / "seen.json").write_text(
                json.dumps(
                    {
                        "micro_batches": [each[0] for each in everyone],
                        "drawn": drawn_together,
                        "summed": summed,
                    }
                )
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
