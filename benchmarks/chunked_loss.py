"""Time and memory of the cross entropy over a vocabulary: in chunks, and with all logits.

    python -m benchmarks.chunked_loss [--rounds 3] [--threads 2]

Three ways, forward and backward, from hidden states to the gradients of the states and
of the output matrix:
- plain: the logits as one matrix, then cross entropy, as an ordinary loop does;
- chunked: `trainer.objectives.chunked`, 1,024 tokens at a time (the recipe's default);
- torch: `torch.nn.functional.linear_cross_entropy` with its own choice of chunks.

bfloat16 means autocast for the first two; torch's function has no autocast and is given
bfloat16 copies. Each figure is a process of its own, which makes one pass before the
clock starts and two that count; memory is what the largest resident set grew by over the
inputs, gradients included. The ways take turns, so that whatever else the machine does
falls on all; times are the smallest of a process, then medians over the rounds. Beside
the seconds by the clock stand those that the processor spent, of all threads, which say
more where the machine was not quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import report
from trainer.objectives.chunked import Sums, chunked_cross_entropy, full_cross_entropy

WAYS = ("plain", "chunked", "torch")
DTYPES = ("float32", "bfloat16")
# Tokens of a micro-batch, width, vocabulary.
SIZES = ((4096, 384, 8192), (4096, 384, 50_000))
CHUNK_TOKENS = 1024
PASSES = 2


def _plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = functional.linear(hidden, weight)
    return full_cross_entropy(logits, targets, label_smoothing=0.0, count_correct=False).total


def _chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    sums: Sums = chunked_cross_entropy(
        hidden,
        weight,
        None,
        targets,
        label_smoothing=0.0,
        chunk_tokens=CHUNK_TOKENS,
        count_correct=False,
    )
    return sums.total


def _torch(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        hidden, weight = hidden.bfloat16(), weight.bfloat16()
    return functional.linear_cross_entropy(
        hidden,
        weight,
        targets,
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(),
    )


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, dtype: str, tokens: int, width: int, vocabulary: int) -> dict[str, float]:
    """Measure one way in this process."""
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    loss = {"plain": _plain, "chunked": _chunked, "torch": _torch}[way]
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) * 0.05).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,))

    def once() -> float:
        hidden.grad = weight.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            total = loss(hidden, weight, targets)
        total.backward()  # type: ignore[no-untyped-call]
        return total.item() / tokens

    before = _peak_mebibytes()
    value = once()
    seconds, spent = [], []
    for _ in range(PASSES):
        began, used = time.perf_counter(), time.process_time()
        once()
        seconds.append(time.perf_counter() - began)
        spent.append(time.process_time() - used)
    return {
        "seconds": min(seconds),
        "processor_seconds": min(spent),
        "mebibytes": _peak_mebibytes() - before,
        "loss": value,
    }


def _in_child(way: str, dtype: str, size: tuple[int, int, int], threads: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.chunked_loss"]
    command += ["--threads", str(threads), "--one", way, dtype, *map(str, size)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(result.stdout)
    return found


def _rows(
    dtype: str, size: tuple[int, int, int], rounds: int, threads: int
) -> list[dict[str, Any]]:
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(_in_child(way, dtype, size, threads))
    tokens, width, vocabulary = size
    rows = []
    for way in WAYS:
        figures = {
            key: statistics.median(each[key] for each in found[way])
            for key in ("seconds", "processor_seconds", "mebibytes", "loss")
        }
        row = {
            "way": way,
            "dtype": dtype,
            "tokens": tokens,
            "width": width,
            "vocabulary": vocabulary,
            "seconds": round(figures["seconds"], 3),
            "processor_seconds": round(figures["processor_seconds"], 3),
            "peak_mebibytes": round(figures["mebibytes"]),
            "loss": round(figures["loss"], 5),
        }
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Run the benchmark and write its result, or measure one way for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(options.threads)
        way, dtype, *size = options.one
        print(json.dumps(measure(way, dtype, *(int(number) for number in size))))
        return
    load = [round(value, 2) for value in os.getloadavg()]
    rows = [
        row
        for size in SIZES
        for dtype in DTYPES
        for row in _rows(dtype, size, options.rounds, options.threads)
    ]
    result = {
        "threads": options.threads,
        "torch": version("torch"),
        "rounds": options.rounds,
        "load_average_before": load,
        "chunk_tokens": CHUNK_TOKENS,
        "rows": rows,
    }
    print("wrote", report.write("chunked_loss", result))


if __name__ == "__main__":
    main()
