"""Loses ranks in every way at once; run as a process of its own, which forks the ranks.

    python -m tests.trainer.distribution.lost_ranks FOLDER

Each scenario has two ranks that add up numbers until one of them is lost. Forking them
from one process that has imported torch spares a dozen imports. What each rank wrote to
stderr, how it ended and when goes to FOLDER/outcomes.json.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from security.errors import CasemateError
from trainer.distribution.environment import Ranks
from trainer.distribution.group import connect
from trainer.errors import DataError

FAILURE_SECONDS = 4.0
# Generous: the machine may be busy. The promise of 30 s is about the default of 15.
DEADLINE_SECONDS = 30.0
# Scenario -> the rank that is lost, and what happens to it.
SCENARIOS: dict[str, tuple[int, str]] = {
    "first killed": (0, "kill"),
    "second killed": (1, "kill"),
    "first hangs": (0, "stop"),
    "second hangs": (1, "stop"),
    "second fails": (1, "raise"),
    "first fails": (0, "raise"),
    "nobody fails": (-1, ""),
}


@dataclass
class Rank:
    scenario: str
    rank: int
    pid: int
    stderr: Path
    ready: int
    code: int | None = None
    seconds: float = 0.0


def main(folder: Path) -> None:
    ranks = [rank for name in SCENARIOS for rank in start(name, folder)]
    for each in ranks:
        select.select([each.ready], [], [], 60)
    began = time.monotonic()
    for each in ranks:
        lost, how = SCENARIOS[each.scenario]
        if each.rank == lost and how in {"kill", "stop"}:
            os.kill(each.pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    wait(ranks, began)
    outcomes: dict[str, dict[str, object]] = {}
    for each in ranks:
        outcomes.setdefault(each.scenario, {})[str(each.rank)] = {
            "code": each.code,
            "seconds": each.seconds,
            "stderr": each.stderr.read_text(),
        }
    (folder / "outcomes.json").write_text(json.dumps(outcomes))


def start(scenario: str, folder: Path) -> list[Rank]:
    """Fork both ranks of a scenario; rank 0 takes the listening socket along."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    started: list[Rank] = []
    for rank in range(2):
        stderr = folder / f"{scenario.replace(' ', '-')}-{rank}.txt"
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            own = Ranks(
                rank=rank,
                world=2,
                local_rank=rank,
                local_world=2,
                port=port,
                listener=listener.fileno() if rank == 0 else None,
            )
            become(lambda own=own, end=writing: work(own, scenario, end), stderr)  # type: ignore[misc]
        os.close(writing)
        started.append(Rank(scenario, rank, pid, stderr, reading))
    listener.close()
    return started


def become(body: Callable[[], None], stderr: Path) -> None:
    """Run `body` as the `casemate` command would, and end this process."""
    code = 0
    with stderr.open("w", buffering=1) as file:
        sys.stderr = file
        try:
            body()
        except CasemateError as error:
            file.write(f"error: {error}\n")
            code = 1
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc(file=file)
            code = 2
    os._exit(code)


def work(own: Ranks, scenario: str, ready: int) -> None:
    lost, how = SCENARIOS[scenario]
    with connect(own, torch.device("cpu"), FAILURE_SECONDS) as group:
        total = group.sum_(torch.ones(1))
        assert total.item() == 2
        os.write(ready, b"!")
        if how == "raise" and own.rank == lost:
            raise DataError("corpus.txt, line 7: not UTF-8")
        # Rank 0 takes its time at the end, as an export does; nobody may be taken for lost.
        count = 0
        while how != "" or count < 3:
            count += 1
            group.sum_(torch.ones(1))
            # A dozen ranks share two cores here; none is to starve another's watch.
            time.sleep(0.02)
        if how == "" and group.is_first:
            time.sleep(1.5 * FAILURE_SECONDS)


def wait(ranks: list[Rank], began: float) -> None:
    """Collect how each ended; stopped ranks are killed when all others have ended."""
    stopped = {each.pid for each in ranks if SCENARIOS[each.scenario] == (each.rank, "stop")}
    while any(each.code is None for each in ranks):
        for each in ranks:
            if each.code is None:
                pid, status = os.waitpid(each.pid, os.WNOHANG)
                if pid:
                    each.code = os.waitstatus_to_exitcode(status)
                    each.seconds = time.monotonic() - began
        others = [each for each in ranks if each.pid not in stopped]
        late = time.monotonic() - began > DEADLINE_SECONDS
        if late or all(each.code is not None for each in others):
            for each in ranks:
                if each.code is None:
                    os.kill(each.pid, signal.SIGKILL)
        select.select([], [], [], 0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
