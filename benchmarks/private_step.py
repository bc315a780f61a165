"""Time and memory of one private training step, beside an ordinary one and stock opacus.

    python -m benchmarks.private_step [--rounds 5] [--seconds 5] [--threads 2] [--device cuda]

A BERT-style classifier of MiniLM's size, with LoRA, with biases only, and whole; float32,
AdamW, random texts without padding, dropout off. Three loops make the same kind of step:

- ordinary: forward, backward, optimizer. No clipping, no noise.
- casemate: `PerExampleGradients`, noise from the operating system's randomness, division,
  optimizer: what an update of a private run computes, without its draw and its ledger.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import report
from trainer.data.special import SpecialTokens
from trainer.loop.step import Step
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.models.parts import apply_parts
from trainer.objectives.build import build_objective
from trainer.privacy.clipping import Clipping
from trainer.privacy.gradients import PerExampleGradients
from trainer.privacy.noise import add_noise_
from trainer.privacy.randomness import SecretGenerator
from trainer.recipe.schema import ModelOptions, ObjectiveOptions, PartsOptions

SEED = 1337
WARM_UP = 3
FEWEST_STEPS = 3
CLIP_NORM = 0.1
NOISE_MULTIPLIER = 0.7
LABELS = ("negative", "positive")
SPECIAL = SpecialTokens(pad=0, unknown=1, begin=2, end=3, mask=4, separator=3)
OBJECTIVE = ObjectiveOptions(kind="classification", softmax="full")
LOOPS = ("ordinary", "casemate", "opacus")


@dataclass(frozen=True)
class Size:
    """A classifier, its batch, and what of it is trained."""

    adapter: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    sequences: int


SIZES = tuple(
    Size(adapter, 6, 384, 12, 30_522, length, 32)
    for adapter, length in (("lora", 32), ("lora", 128), ("bitfit", 32), ("none", 32))
)
TINY = tuple(Size(adapter, 2, 32, 2, 200, 8, 4) for adapter in ("lora", "bitfit", "none"))

StepOnce = Callable[[], None]


def make_network(size: Size, device: torch.device) -> Network:
    torch.manual_seed(SEED)
    network = build_network(
        ModelOptions(family="encoder", layers=size.layers, width=size.width, heads=size.heads),
        OBJECTIVE,
        vocabulary_size=size.vocabulary,
        context=size.length,
        special=SPECIAL,
        labels=LABELS,
    )
    apply_parts(network, PartsOptions(adapter=size.adapter))
    return network.to(device).train()


def make_batch(size: Size, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    shape = (size.sequences, size.length)
    ids = torch.randint(5, size.vocabulary, shape, generator=generator)
    labels = torch.randint(len(LABELS), (size.sequences,), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    return {name: values.to(device) for name, values in batch.items()}


def make_optimizer(network: nn.Module) -> torch.optim.AdamW:
    trained = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)


def ordinary(size: Size, device: torch.device) -> StepOnce:
    network, batch = make_network(size, device), make_batch(size, device)
    step = Step(network, build_objective(OBJECTIVE, network))
    optimizer = make_optimizer(network)

    def once() -> None:
        step(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def casemate(size: Size, device: torch.device) -> StepOnce:
    network, batch = make_network(size, device), make_batch(size, device)
    step = Step(network, build_objective(OBJECTIVE, network))
    optimizer = make_optimizer(network)
    gradients = PerExampleGradients(step, network, Clipping("flat", CLIP_NORM))
    weights = torch.ones(size.sequences, device=device)
    generator = SecretGenerator()
    parameters = dict(network.named_parameters())

    def once() -> None:
        gradients.accumulate(batch, weights)
        sums = gradients.take()
        flat = torch.cat([values.flatten() for values in sums.values()])
        add_noise_(
            {"all": flat},
            mode="gaussian",
            noise_multiplier=NOISE_MULTIPLIER,
            sensitivity=CLIP_NORM,
            generator=generator,
        )
        flat /= size.sequences
        pieces = torch.split(flat, [values.numel() for values in sums.values()])
        for (name, values), piece in zip(sums.items(), pieces, strict=True):
            parameters[name].grad = piece.view_as(values)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def opacus(size: Size, device: torch.device) -> StepOnce:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    network, batch = make_network(size, device), make_batch(size, device)
    hooked = GradSampleModule(network, batch_first=True, loss_reduction="sum")
    optimizer = DPOptimizer(
        make_optimizer(network),
        noise_multiplier=NOISE_MULTIPLIER,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=size.sequences,
        loss_reduction="sum",
    )

    def once() -> None:
        logits = hooked(batch)
        loss = nn.functional.cross_entropy(logits.float(), batch["labels"], reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return once


def make_loop(name: str, size: Size, device: torch.device) -> StepOnce:
    """Build a loop and let it warm up; an error of opacus is the caller's to tell."""
    once = {"ordinary": ordinary, "casemate": casemate, "opacus": opacus}[name](size, device)
    for _ in range(WARM_UP):
        once()
    return once


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


def measure(size: Size, rounds: int, seconds: float, device: str, threads: int) -> dict[str, Any]:
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
    memory = {name: measure_memory(name, size, device, threads) for name in times}
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times["ordinary"], strict=True)]
        row[name] = {
            "milliseconds": round(statistics.median(found) * 1e3, 2),
            "to_ordinary": round(statistics.median(ratios), 3),
            "to_ordinary_from": round(min(ratios), 3),
            "to_ordinary_to": round(max(ratios), 3),
            "mebibytes": round(memory[name] / 2**20),
            "memory_to_ordinary": round(memory[name] / max(memory["ordinary"], 1), 3),
        }
    return row


def print_row(row: dict[str, Any]) -> None:
    size = f"{row['adapter']}, {row['sequences']} x {row['length']}"
    for name in LOOPS:
        found = row[name]
        if "error" in found:
            print(f"{size:<18} {name:<9} {found['error'][:90]}", flush=True)
            continue
        print(
            f"{size:<18} {name:<9} {found['milliseconds']:9.2f} ms   x {found['to_ordinary']:.3f} "
            f"({found['to_ordinary_from']:.3f} to {found['to_ordinary_to']:.3f})   "
            f"{found['mebibytes']:5} MiB   x {found['memory_to_ordinary']:.3f}",
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
    rows = []
    for size in TINY if options.tiny else SIZES:
        row = measure(size, options.rounds, options.seconds, options.device, options.threads)
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
    name = "private_step" if options.device == "cpu" else "private_step_gpu"
    packages = (*report.TRAINING_PACKAGES, "opacus")
    print("wrote", report.write(name, result, packages))


if __name__ == "__main__":
    main()
