"""Kill -9 at any moment of a save leaves checkpoints that restore."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROUNDS = 25


def test_a_run_killed_at_any_moment_restores_what_was_completed(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.trainer.checkpointing.kill_rounds",
        str(tmp_path / "checkpoints"),
        str(ROUNDS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads(done.stdout)
    restored = outcome["restored"]
    assert len(restored) == ROUNDS
    assert restored == sorted(restored)
    # Kills that never hit a save, or runs that never completed one, would show nothing.
    assert restored[-1] > 5
    assert outcome["left_unfinished"] > 0
