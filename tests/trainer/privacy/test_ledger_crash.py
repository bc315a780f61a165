"""kill -9 while charges are written: the ledger never says less than was released."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.privacy import charge_forever
from trainer.privacy.ledger import Ledger, read_ledger


def kill_while_charging(path: Path, after: int, part: float) -> int:
    """Run charges until `after` were told, wait a part of a charge, kill; return those told."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.privacy.charge_forever", str(path)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    told = 0
    try:
        while told < after and process.stdout.readline():
            told += 1
        assert told == after, "it ended by itself"
        # Somewhere within the next charges: no synchronization, any moment will do.
        size = path.stat().st_size + int(part * 400)
        while path.stat().st_size < size:
            os.sched_yield()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    told += len(process.stdout.read().splitlines())
    process.stdout.close()
    return told


@pytest.mark.timeout(300)
def test_killed_at_ten_moments_it_never_decreases(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    Ledger.create(path).close()
    chance = random.Random()
    applied = 0
    seen = b""
    for _ in range(10):
        applied += kill_while_charging(path, chance.randrange(1, 40), chance.random())
        # Append-only, to the byte.
        data = path.read_bytes()
        assert data.startswith(seen)
        # What was told was applied; at most one charge more was under way in each round.
        counted = sum(each.charged for each in read_ledger(path).releases)
        assert counted >= applied
        with Ledger.open(path) as ledger:
            assert sum(each.charged for each in ledger.view().releases) == counted
            (event,) = ledger.releases(charge_forever.DATASET)
            assert event.steps == counted
        seen = path.read_bytes()
    assert applied <= counted <= applied + 10
    # Every start began at step 0 again, and each of those charges stands beside the first.
    view = read_ledger(path)
    assert sum(each.replayed for each in view.releases) > 0
    assert len(view.releases) == 10
