"""How many entries a second become durable, and how long one waits for it.

    python -m benchmarks.audit_log

Callers are asyncio tasks in one loop, as in the appliance's front; each appends,
waits for the entry to be durable, and goes on at once ("in flight" is their
number). Everything is on: both signatures, publishing once a second, real files.

A figure like this says as much of the disk as of the log, so the disk's own
flushes a second are measured in the same run and printed beside it, and the same
load runs again with a delay added to each flush of the segment, for a disk on
which a flush takes about `--flush-ms`. A drive that answers a flush in 0.2 ms or
less has a cache that survives power loss, or only pretends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from security.audit.entry import AuditEntry
from security.audit.files import AppendFile, RealFiles
from security.audit.log import AuditLog
from security.audit.signer import LogSigner
from security.audit.verify import verify_log

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "audit_log.json"
IN_FLIGHT = (1, 16, 256)
GOAL_PER_SECOND = 3000


class SlowFlush(RealFiles):
    """Real files whose segment flushes take some milliseconds more."""

    def __init__(self, folder: Path, extra_seconds: float) -> None:
        super().__init__(folder)
        self._extra_seconds = extra_seconds

    def open_append(self, name: str) -> AppendFile:
        return _SlowFile(super().open_append(name), self._extra_seconds)


class _SlowFile:
    def __init__(self, file: AppendFile, extra_seconds: float) -> None:
        self.append = file.append
        self.close = file.close
        self._file = file
        self._extra_seconds = extra_seconds

    def sync(self) -> None:
        self._file.sync()
        time.sleep(self._extra_seconds)


def sample_entry() -> bytes:
    return AuditEntry(
        kind="completed",
        time_ms=1_700_000_000_000,
        request_id="0123456789abcdef0123456789abcdef",
        principal="spiffe://example.internal/device/sensor-7",
        role="device",
        method="casemate.v1.TextService/Generate",
        model="gemma-3-270m",
        version="1.0.0",
        bundle_digest="ab" * 32,
        policy_digest="cd" * 32,
        prompt_tokens=110,
        completion_tokens=64,
        duration_bucket="<1s",
        status="OK",
        verdicts=("card-number:redact",),
        request_commitment="12" * 32,
        answer_commitment="34" * 32,
    ).encode()


def flushes_per_second(folder: Path, count: int = 200) -> float:
    path = folder / "flush"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    started = time.perf_counter()
    for _ in range(count):
        os.write(descriptor, bytes(10_000))
        os.fdatasync(descriptor)
    elapsed = time.perf_counter() - started
    os.close(descriptor)
    path.unlink()
    return count / elapsed


def signatures_per_second(signer: LogSigner, count: int = 200) -> float:
    started = time.perf_counter()
    for size in range(count):
        signer.sign(size, bytes(32))
    return count / (time.perf_counter() - started)


async def load(log: AuditLog, in_flight: int, seconds: float, receipts: bool) -> dict[str, Any]:
    entry = sample_entry()
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            index = await asyncio.wrap_future(log.append(entry))
            if receipts:
                await asyncio.wrap_future(log.receipt_for(index))
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return {
        "in_flight": in_flight,
        "receipts": receipts,
        "entries": len(latencies),
        "entries_per_second": round(len(latencies) / elapsed, 1),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 3),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 3),
    }


def measure(folder: Path, signer: LogSigner, seconds: float, flush_ms: float) -> dict[str, Any]:
    """Run every load on one log; then verify the whole log, which times that too."""
    shutil.rmtree(folder, ignore_errors=True)
    files = SlowFlush(folder, flush_ms / 1000) if flush_ms else None
    runs = []
    with AuditLog.open(folder, signer, files=files) as log:
        for receipts in (False, True):
            for in_flight in IN_FLIGHT:
                runs.append(asyncio.run(load(log, in_flight, seconds, receipts)))
                if not log.healthy:
                    raise SystemExit(f"the log failed: {log.failure}")
        started = time.perf_counter()
    closing = time.perf_counter() - started
    started = time.perf_counter()
    with AuditLog.open(folder, signer):
        opening = time.perf_counter() - started
    started = time.perf_counter()
    report = verify_log(folder, signer.keys)
    verifying = time.perf_counter() - started
    shutil.rmtree(folder)
    return {
        "added_flush_ms": flush_ms,
        "runs": runs,
        "entries_in_log": report.entries,
        "close_seconds": round(closing, 3),
        "open_seconds": round(opening, 3),
        "verify_entries_per_second": round(report.entries / verifying, 1),
    }


def show(result: dict[str, Any]) -> None:
    print(
        f"\nadded to each flush: {result['added_flush_ms']} ms; "
        f"open after {result['entries_in_log']} entries: {result['open_seconds']} s; "
        f"verify: {result['verify_entries_per_second']:,.0f} entries/s"
    )
    print("in flight  receipts  entries/s    p50 ms    p99 ms")
    for run in result["runs"]:
        print(
            f"{run['in_flight']:>9}  {'yes' if run['receipts'] else 'no':>8}"
            f"  {run['entries_per_second']:>9,.0f}  {run['p50_ms']:>8.2f}  {run['p99_ms']:>8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run")
    parser.add_argument("--flush-ms", type=float, default=4.0, help="delay of the second round")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="which disk")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    signer = LogSigner(
        "bench.example/log", Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate()
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        result: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.audit_log", *sys.argv[1:]]),
            "seconds_per_run": options.seconds,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}",
            "load_average_before": [round(value, 2) for value in os.getloadavg()],
            "entry_bytes": len(sample_entry()),
            "goal_entries_per_second": GOAL_PER_SECOND,
            "disk_flushes_per_second_before": round(flushes_per_second(folder), 1),
            "signatures_per_second": round(signatures_per_second(signer), 1),
        }
        print(
            f"disk: {result['disk_flushes_per_second_before']:,.0f} flushes/s; "
            f"signing (Ed25519 and ML-DSA-44): {result['signatures_per_second']:,.0f}/s; "
            f"entry: {result['entry_bytes']} bytes; load before: {result['load_average_before']}"
        )
        rounds = [measure(folder / "log", signer, options.seconds, 0.0)]
        show(rounds[0])
        rounds.append(measure(folder / "log", signer, options.seconds, options.flush_ms))
        show(rounds[1])
        result["rounds"] = rounds
        result["disk_flushes_per_second_after"] = round(flushes_per_second(folder), 1)
        result["load_average_after"] = [round(value, 2) for value in os.getloadavg()]
    print(
        f"\ndisk after: {result['disk_flushes_per_second_after']:,.0f} flushes/s; "
        f"load after: {result['load_average_after']}"
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
