"""What an appliance costs before it answers: verified opening, start, memory.

python -m benchmarks footprint
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import psutil

from benchmarks import report
from benchmarks.serving import GGUF, MODEL
from benchmarks.site import Site
from security.bundle.opening import open_bundle
from security.signing.signers import Trust

ROUNDS = 5
_MEBIBYTE = 1 << 20


def _opening_seconds(bundle: Path, signers: Path) -> list[float]:
    """Time the whole verified opening: signatures, hashing, copying, pre-parsing."""
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        with open_bundle(bundle, Trust.load(signers)):
            seconds.append(time.perf_counter() - began)
    return seconds


def _memory_mebibytes(pid: int) -> float:
    """Return what would be free if the process ended, in MiB."""
    return float(psutil.Process(pid).memory_full_info().uss) / _MEBIBYTE


def main() -> None:
    """Run the benchmark and write its result."""
    with Site(Path("build/benchmarks/footprint")) as site:
        bundle = site.bundle(GGUF, MODEL, "1.0.0")
        encoder = site.bundle(Path("build/models/all-MiniLM-L6-v2"), "minilm", "1.0.0")
        opening = _opening_seconds(bundle, site.folder / "trust" / "signers")
        site.install(bundle)
        site.install(encoder)
        starts = []
        for _ in range(ROUNDS):
            starts.append(site.start())
            workers = psutil.Process(site.pid).children()
            front = _memory_mebibytes(site.pid)
            each = sorted(round(_memory_mebibytes(worker.pid), 1) for worker in workers)
            site.stop()
        row = {
            "verified_opening_seconds": round(statistics.median(opening), 3),
            "start_to_ready_seconds": round(statistics.median(starts), 2),
            "front_uss_mib": round(front, 1),
            "worker_uss_mib": each,
        }
    print("  ".join(f"{key} {value}" for key, value in row.items()))
    print("wrote", report.write("footprint", row))


if __name__ == "__main__":
    main()
