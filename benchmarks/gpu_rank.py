"""One rank of `benchmarks.gpu_training`: makes the updates of a recipe under the clock.

    python -m benchmarks.gpu_rank RECIPE --result FILE [KEY=VALUE ...]

Assembly, loader and updates are those of `casemate train`; a launcher has said in the
environment which rank this is. The first rank writes the figures as JSON. The clock runs
over whole updates after the warm-up, from one point where every GPU is done to another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.data.loader import Loader
from trainer.distribution.environment import resolve
from trainer.distribution.group import Group, connect
from trainer.loop.assembly import Assembly, assemble
from trainer.loop.batches import autocast
from trainer.loop.devices import choose_device, device_name, peak_memory_bytes
from trainer.loop.update import Updater, UpdateResult
from trainer.recipe.parse import load_recipe
from trainer.recipe.schema import Recipe
from trainer.reporting.mfu import model_flops_utilization

TOP_KERNELS = 30


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--result", type=Path, required=True, help="where the figures go")
    parser.add_argument("--steps", type=int, required=True, help="updates under the clock")
    parser.add_argument("--warm-up", type=int, required=True, help="updates before it")
    parser.add_argument("--profile", action="store_true", help="print the longest kernels")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser.parse_intermixed_args()


def train(
    recipe: Recipe, parts: Assembly, group: Group, options: argparse.Namespace
) -> dict[str, Any]:
    """Make the updates and return the figures of those under the clock."""
    with Loader(
        parts.data.train,
        sequences=recipe.batch.sequences,
        micro_sequences=parts.micro_sequences,
        seed=recipe.run.seed,
        rank=group.rank,
        world=group.world,
        pin_memory=group.device.type == "cuda",
    ) as loader:
        updater = Updater(
            parts.module,
            parts.optimizers,
            loader,
            group,
            recipe.optimizer,
            steps=recipe.run.steps,
            seed=recipe.run.seed,
            autocast=autocast(recipe.precision.dtype, group.device),
        )
        began = time.perf_counter()
        first = updater.update(0)
        first_seconds = time.perf_counter() - began
        for step in range(1, options.warm_up):
            updater.update(step)
        synchronize(group)
        began = time.perf_counter()
        results, seconds = timed(updater, options.warm_up, options.steps)
        synchronize(group)
        elapsed = time.perf_counter() - began
        if options.profile:
            print_kernels(updater, options.warm_up + options.steps, group)
    return {
        **sizes(recipe, parts, group),
        **speed(parts, group, elapsed, results, seconds),
        "first_update_seconds": round(first_seconds, 1),
        "loss_from": round(first.loss, 4),
        "loss_to": round(results[-1].loss, 4),
    }


def timed(updater: Updater, first: int, count: int) -> tuple[list[UpdateResult], list[float]]:
    results, seconds = [], []
    for step in range(first, first + count):
        began = time.perf_counter()
        results.append(updater.update(step))
        seconds.append(time.perf_counter() - began)
    return results, seconds


def synchronize(group: Group) -> None:
    """Wait until every GPU has done what it was given."""
    if group.device.type == "cuda":
        torch.cuda.synchronize(group.device)
    group.barrier()


def sizes(recipe: Recipe, parts: Assembly, group: Group) -> dict[str, Any]:
    batch, length = recipe.batch.sequences, recipe.data.sequence_length
    return {
        "parameters": parts.size.parameters,
        "vocabulary_size": parts.data.tokenizer.vocabulary_size,
        "sequence_length": length,
        "tokens_an_update": batch * length,
        "micro_sequences": parts.micro_sequences,
        "passes_a_rank": batch // parts.micro_sequences // group.world,
        "dtype": recipe.precision.dtype,
        "compiled": recipe.precision.compile,
        "activation_checkpointing": recipe.precision.activation_checkpointing,
        "gigaflops_a_token": round(parts.size.flops_per_token / 1e9, 4),
    }


def speed(
    parts: Assembly,
    group: Group,
    elapsed: float,
    results: Sequence[UpdateResult],
    seconds: Sequence[float],
) -> dict[str, Any]:
    """Return the figures of the clock and of memory, over all ranks."""
    peak = torch.tensor(float(peak_memory_bytes(group.device) or 0), device=group.device)
    peak_bytes = float(group.max_(peak))
    rate = sum(result.tokens for result in results) / elapsed
    name = device_name(group.device)
    used = model_flops_utilization(rate, parts.size.flops_per_token, name, group.world)
    return {
        "updates": len(results),
        "update_seconds": {
            "median": round(statistics.median(seconds), 4),
            "from": round(min(seconds), 4),
            "to": round(max(seconds), 4),
        },
        "tokens_per_second": round(rate),
        "tokens_per_second_a_rank": round(rate / group.world),
        "mfu": None if used is None else round(used, 4),
        "peak_memory_gib": round(peak_bytes / 2**30, 2) if peak_bytes else None,
    }


def print_kernels(updater: Updater, step: int, group: Group) -> None:
    """Print what one more update spends its time on."""
    kinds = [ProfilerActivity.CPU]
    if group.device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as seen:
        updater.update(step)
        synchronize(group)
    if group.is_first:
        order = f"self_{'cuda' if len(kinds) > 1 else 'cpu'}_time_total"
        print(seen.key_averages().table(sort_by=order, row_limit=TOP_KERNELS), flush=True)


def main() -> None:
    """Be one rank of a run."""
    options = arguments()
    recipe = load_recipe(options.recipe, options.overrides).recipe
    ranks = resolve(os.environ)
    device = choose_device(recipe.run.device, ranks)
    always = recipe.distribution.strategy == "fsdp"
    with connect(ranks, device, recipe.distribution.failure_seconds, always=always) as group:
        began = time.perf_counter()
        parts = assemble(recipe, options.result.parent / "run", ranks, group, lambda _: None)
        group.barrier()
        prepared = time.perf_counter() - began
        figures = {
            "recipe": options.recipe,
            "device": device_name(device),
            "ranks": group.world,
            "strategy": recipe.distribution.strategy,
            "seconds_to_prepare": round(prepared, 1),
            **train(recipe, parts, group, options),
        }
        if group.is_first:
            options.result.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
