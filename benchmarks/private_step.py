"""Time and memory of one private training step, beside an ordinary one and stock opacus.

    python -m benchmarks.private_step [--rounds 5] [--seconds 5] [--threads 2] [--device cuda]

A BERT-style classifier of MiniLM's size, with LoRA, with biases only, and whole; on a GPU a
decoder of 124 million weights besides, with LoRA and whole. Float32, AdamW, random texts
without padding, dropout off. The loops make the same kind of step:

- ordinary: forward, backward, optimizer. No clipping, no noise.
- casemate: `PerExampleGradients`, noise from the operating system's randomness, division,
  optimizer: what an update of a private run computes, without its draw and its ledger.
- clipped: the same without noise. A private batch is many passes and gets noise once, so
  this is what each further pass costs; noise is drawn on the processor, on a GPU as well.
- opacus: the same network in a `GradSampleModule`, with its `DPOptimizer` (flat clipping,
  torch's noise), as its `PrivacyEngine` sets them up. What it cannot run is said so.

They take turns in one process, so that whatever else the machine does falls on all; the
figure of a round is the median of its steps, and what counts is the ratio within a round.
Memory is the largest of a process of its own that makes a few steps of one loop: on a CPU
its peak resident size above what it had before the first step, on a GPU what torch allocated.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.private_loops import LOOPS, Size, StepOnce, make_loop

FEWEST_STEPS = 3

SIZES = tuple(
    Size(adapter, 6, 384, 12, 30_522, length, 32)
    for adapter, length in (("lora", 32), ("lora", 128), ("bitfit", 32), ("none", 32))
)
GPU_SIZES = (
    *(Size(adapter, 6, 384, 12, 30_522, 128, 64) for adapter in ("lora", "none")),
    *(Size(adapter, 12, 768, 12, 50_304, 256, 16, "decoder") for adapter in ("lora", "none")),
)
TINY = (
    *(Size(adapter, 2, 32, 2, 200, 8, 4) for adapter in ("lora", "none")),
    *(Size(adapter, 2, 32, 2, 200, 8, 4, "decoder") for adapter in ("lora", "none")),
)


def median_seconds(once: StepOnce, seconds: float, device: torch.device) -> float:
    """Make steps for some seconds; return the median of their seconds."""
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < FEWEST_STEPS:
        began = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def peak_memory(name: str, size: Size, device: torch.device) -> int:
    """Return the bytes that a few steps of a loop need at most; for a process of its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        make_loop(name, size, device)
        return torch.cuda.max_memory_allocated()
    if name == "opacus":
        importlib.import_module("opacus")
    before = resident_peak()
    make_loop(name, size, device)
    return resident_peak() - before


def resident_peak() -> int:
    """Return this process's peak resident bytes (getrusage's figure begins with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measure_memory(name: str, size: Size, device: str, threads: int) -> int:
    """Return `peak_memory` as a new process finds it."""
    job = json.dumps([name, asdict(size), device, threads])
    command = [sys.executable, "-m", "benchmarks.private_step", "--memory-of", job]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(result.stdout)


def measure(
    size: Size, rounds: int, seconds: float, device: str, threads: int, *, memory_of: Sequence[str]
) -> dict[str, Any]:
    """Measure all loops at one size."""
    place = torch.device(device)
    row: dict[str, Any] = asdict(size)
    loops: dict[str, StepOnce] = {}
    for name in LOOPS:
        try:
            loops[name] = make_loop(name, size, place)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            if name != "opacus":
                raise
            row[name] = {"error": str(error).partition("\n")[0]}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        for name in list(loops) if number % 2 else list(reversed(loops)):
            times[name].append(median_seconds(loops[name], seconds, place))
    loops.clear()
    if place.type == "cuda":
        # What this process keeps, those that measure memory cannot have.
        torch.cuda.empty_cache()
    memory = {
        name: measure_memory(name, size, device, threads) for name in times if name in memory_of
    }
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times["ordinary"], strict=True)]
        row[name] = {
            "milliseconds": round(statistics.median(found) * 1e3, 2),
            "to_ordinary": round(statistics.median(ratios), 3),
            "to_ordinary_from": round(min(ratios), 3),
            "to_ordinary_to": round(max(ratios), 3),
        }
        if name in memory:
            row[name]["mebibytes"] = round(memory[name] / 2**20)
            ratio = memory[name] / max(memory["ordinary"], 1)
            row[name]["memory_to_ordinary"] = round(ratio, 3)
    return row


def print_row(row: dict[str, Any]) -> None:
    size = f"{row['family']}, {row['adapter']}, {row['sequences']} x {row['length']}"
    for name in LOOPS:
        found = row[name]
        if "error" in found:
            print(f"{size:<26} {name:<9} {found['error'][:90]}", flush=True)
            continue
        memory = ""
        if "mebibytes" in found:
            memory = f"   {found['mebibytes']:5} MiB   x {found['memory_to_ordinary']:.3f}"
        print(
            f"{size:<26} {name:<9} {found['milliseconds']:9.2f} ms   x {found['to_ordinary']:.3f} "
            f"({found['to_ordinary_from']:.3f} to {found['to_ordinary_to']:.3f}){memory}",
            flush=True,
        )


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one loop in a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true", help="small sizes; writes no result")
    parser.add_argument("--memory-of", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, values, device, threads = json.loads(options.memory_of)
        torch.set_num_threads(threads)
        print(peak_memory(name, Size(**values), torch.device(device)))
        return
    torch.set_num_threads(options.threads)
    load = [round(value, 2) for value in os.getloadavg()]
    rows: list[dict[str, Any]] = []
    sizes = GPU_SIZES if options.device == "cuda" else SIZES
    for size in TINY if options.tiny else sizes:
        row = measure(
            size,
            options.rounds,
            options.seconds,
            options.device,
            options.threads,
            # A process for each figure of memory: of tiny ones two are enough.
            memory_of=LOOPS if not options.tiny else LOOPS[:2] if not rows else (),
        )
        print_row(row)
        rows.append(row)
    if options.tiny:
        return
    result = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": options.threads,
        "rounds": options.rounds,
        "seconds_a_round": options.seconds,
        "load_average_before": load,
        "rows": rows,
    }
    on_cpu = options.device == "cpu"
    name = "private_step" if on_cpu else "private_step_gpu"
    packages = (*report.TRAINING_PACKAGES, "opacus")
    target = "bench" if on_cpu else "bench-gpu"
    print("wrote", report.write(name, result, packages, target=target))


if __name__ == "__main__":
    main()
