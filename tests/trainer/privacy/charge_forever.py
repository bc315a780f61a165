"""Charges a ledger, telling each charge after it is durable, until it is killed.

python -m tests.trainer.privacy.charge_forever LEDGER
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from trainer.privacy.event import Event
from trainer.privacy.ledger import Ledger

DATASET = "tickets"
EVENT = Event(units=1000, sampling_probability=0.05, noise_multiplier=1.0, steps=10_000)


def main(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.begin("run-1", DATASET, EVENT)
        for step in itertools.count():
            ledger.charge("run-1", step)
            # Stands for the update that is applied now.
            sys.stdout.write(f"{step}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
