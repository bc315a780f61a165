"""Run by two ranks: trains, saves and restores under DDP and FSDP; leaves files to compare.

python -m tests.trainer.distribution.ranks_agree FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.trainer.distribution import tiny
from trainer.checkpointing.checkpointer import Checkpointer
from trainer.checkpointing.tensors import optimizer_tensors
from trainer.distribution.environment import resolve
from trainer.distribution.group import Group, connect
from trainer.distribution.wrap import distribute, full_state
from trainer.errors import CheckpointError
from trainer.recipe.schema import CheckpointOptions, Recipe

STEPS = 4
CASES = (("ddp", False), ("fsdp", False), ("fsdp", True))


def name_of(strategy: str, recompute: bool) -> str:
    return f"{strategy}-recomputed" if recompute else strategy


def main(folder: Path) -> None:
    ranks = resolve(os.environ)
    with connect(ranks, torch.device("cpu"), failure_seconds=15) as group:
        assert group.broadcast({"from": group.rank}) == {"from": 0}
        assert group.gather([group.rank, "é" * group.rank]) == [[0, ""], [1, "é"]]
        assert group.max_(torch.tensor([group.rank])).item() == 1
        results: dict[str, object] = {
            name_of(*case): one_case(folder, group, *case) for case in CASES
        }
        results["failure"] = one_rank_cannot_write(folder, group)
        if group.is_first:
            (folder / "results.json").write_text(json.dumps(results))


def one_case(folder: Path, group: Group, strategy: str, recompute: bool) -> dict[str, object]:
    """Train from new weights and save; then restore what one rank has saved."""
    name = name_of(strategy, recompute)
    step = tiny.make_step()
    module = distribute(
        step,
        step.network,
        strategy=strategy,
        dtype="float32",
        group=group,
        activation_checkpointing=recompute,
    )
    optimizers = tiny.make_optimizers(step)
    curve = tiny.train(module, optimizers, group, range(STEPS))
    # As validation does; FSDP then keeps the weights that it gathered.
    with torch.no_grad():
        module(*tiny.micro_batch(99, 0))
    with Checkpointer(folder / name, CheckpointOptions(), group, Recipe()) as saver:
        saver.save(STEPS, module, optimizers, {"case": name}, score=1.0)
        # Training goes on while the checkpoint is written: it must hold the state of before.
        write_state(folder / f"{name}-at-save", step, optimizers, group)
        tiny.train(module, optimizers, group, range(STEPS, STEPS + 2))
    with Checkpointer(folder / "alone", CheckpointOptions(), group, Recipe()) as other:
        latest = other.latest()
        assert latest is not None
        progress = other.restore(latest, module, optimizers)
    write_state(folder / f"{name}-restored", step, optimizers, group)
    further = tiny.train(module, optimizers, group, range(STEPS, STEPS + 2))
    return {"curve": curve, "further": further, "progress": progress}


def write_state(
    target: Path, step: tiny.TinyStep, optimizers: list[torch.optim.Optimizer], group: Group
) -> None:
    """Write whole weights and optimizer state, gathered by other means than checkpoints."""
    weights = full_state(step.network)
    moments, _ = optimizer_tensors(step, optimizers)
    whole = {name: tiny.plain(value).contiguous() for name, value in moments.items()}
    if group.is_first:
        weights.pop("output.weight")
        save_file({**weights, **whole}, target.with_suffix(".safetensors"))


def one_rank_cannot_write(folder: Path, group: Group) -> str:
    """Rank 1 alone fails; both ranks must get the error, and no checkpoint may appear."""
    step = tiny.make_step()
    optimizers = tiny.make_optimizers(step)
    options = CheckpointOptions(asynchronous=False)
    message = "no error"
    with Checkpointer(folder / "refused", options, group, Recipe()) as saver:
        if group.rank == 1:
            limit_file_size(100)
        try:
            saver.save(1, step, optimizers, {})
        except CheckpointError as error:
            message = str(error)
    group.barrier()
    assert not list((folder / "refused").glob("step-*"))
    return message


def limit_file_size(size_bytes: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
