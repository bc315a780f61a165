"""Kills a run that does nothing but save, at random moments, and starts it again.

    python -m tests.trainer.checkpointing.kill_rounds FOLDER ROUNDS

Each round forks a child (torch is imported once). It restores the latest checkpoint and
checks every value in it, then saves on until it is killed. The child tells through a pipe
what it restored and which saves have completed; no completed one may be missing later.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

from trainer.checkpointing.checkpointer import Checkpointer
from trainer.distribution.environment import Ranks
from trainer.distribution.group import connect
from trainer.recipe.schema import CheckpointOptions, Recipe

LONGEST_SECONDS = 0.3


def main(folder: Path, rounds: int) -> None:
    warm_up(folder.with_name("warm-up"))
    moments = random.Random(7)
    restored: list[int] = []
    left_unfinished = 0
    completed = -1
    for _ in range(rounds):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(folder, writing)
        os.close(writing)
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            first = pipe.readline().split()
            if not first or first[0] != b"restored" or int(first[1]) < completed:
                raise SystemExit(f"after {completed} a child said {first}")
            restored.append(int(first[1]))
            select.select([], [], [], moments.uniform(0, LONGEST_SECONDS))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            said = [int(line) for line in pipe.read().splitlines()]
        completed = max([restored[-1], *said])
        left_unfinished += any(folder.glob("*.partial"))
    print(json.dumps({"restored": restored, "left_unfinished": left_unfinished}))


def warm_up(folder: Path) -> None:
    """Save and restore once, so that the children inherit all that is loaded on first use."""
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    options = CheckpointOptions(asynchronous=False)
    with (
        connect(Ranks(), torch.device("cpu"), 15) as group,
        Checkpointer(folder, options, group, Recipe()) as saver,
    ):
        saver.save(1, module, [optimizer], {})
        latest = saver.latest()
        assert latest is not None
        saver.restore(latest, module, [optimizer])


def child(folder: Path, pipe: int) -> None:
    """Never returns; ends with another code than a kill's if something is wrong."""
    try:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64, bias=False))
        optimizer = torch.optim.AdamW(module.parameters())
        options = CheckpointOptions(keep_last=2)
        with (
            connect(Ranks(), torch.device("cpu"), 15) as group,
            Checkpointer(folder, options, group, Recipe()) as saver,
        ):
            latest = saver.latest()
            step = 0
            if latest is not None:
                progress = saver.restore(latest, module, [optimizer])
                step = latest.step
                check(module, optimizer, progress, step)
            os.write(pipe, f"restored {step}\n".encode())
            while True:
                step += 1
                fill(module, optimizer, step)
                saver.save(step, module, [optimizer], {"step": step}, score=float(-step))
                # A save waits for the one before it, so that one is complete.
                os.write(pipe, f"{step - 1}\n".encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def fill(module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float(step))
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": torch.full_like(parameter, step + 0.25),
                "exp_avg_sq": torch.full_like(parameter, step + 0.5),
            }


def check(
    module: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, object], step: int
) -> None:
    assert progress == {"step": step}
    for parameter in module.parameters():
        state = optimizer.state[parameter]
        assert bool((parameter == step).all())
        assert state["step"].item() == step
        assert bool((state["exp_avg"] == step + 0.25).all())
        assert bool((state["exp_avg_sq"] == step + 0.5).all())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
