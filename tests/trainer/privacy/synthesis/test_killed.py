"""A process that is killed while it writes leaves nothing that passes for samples."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trainer.privacy.synthesis.run import synthesize
from trainer.privacy.synthesis.settings import Sampling

ROOT = Path(__file__).parents[4]
_PATIENCE_SECONDS = 90
_POLL_SECONDS = 0.01


def test_a_killed_process_leaves_no_samples_and_none_in_the_way(
    decoder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "texts.jsonl"
    words = ["privacy", "synthesize", str(decoder), "--count", "10000000", "-o", str(output)]
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "casemate.cli.main", *words, "--device", "cpu"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        while not any(path.stat().st_size for path in tmp_path.glob(".texts.jsonl.*.partial")):
            assert child.poll() is None, "it ended before it wrote"
            assert time.monotonic() < deadline, "it wrote nothing"
            time.sleep(_POLL_SECONDS)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not list(tmp_path.glob("texts.jsonl*"))
    done = synthesize(decoder, output, 2, sampling=Sampling(), device="cpu")
    assert done.record.samples.count == 2
