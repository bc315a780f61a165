"""Starts the ranks of one machine, passes signals on to them, and ends them together.

`casemate train ... --ranks N` runs its own command line N times, with the variables that
torchrun would set. What torchrun adds, restarts and membership that changes, is of no use
here, where a run goes on by starting it again; what it costs is a second import of torch
and a long traceback for every error. On several machines use torchrun, srun or mpirun.

Who speaks: a rank that fails with an error of its own has printed it. A rank that was
killed could not, so the launcher names it. A rank that hangs is found by the watch of the
others. In each case that is one error; the ranks that remain are killed.

Invariants: when `launch` returns, no rank is left. A launcher that is killed takes its
ranks along, whose watches look for it. Rank 0 inherits the listening socket where the
ranks meet, so no other process can take the port in between, and it is open to this
machine alone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Final

from trainer.distribution.environment import LISTENER, SUPERVISOR
from trainer.distribution.lines import EXIT_LOST, RESUME_HINT, print_error

_LOOPBACK: Final = "127.0.0.1"
_POLL_SECONDS: Final = 0.1
# How long the others may take to end by themselves after one has ended with an error.
_GRACE_SECONDS: Final = 10.0
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def launch(
    command: Sequence[str],
    ranks: int,
    environ: Mapping[str, str] | None = None,
    *,
    resume_hint: str = RESUME_HINT,
) -> int:
    """Run `command` as `ranks` ranks on this machine and wait for them.

    Args:
        command: program and arguments, the same for all ranks.
        ranks: how many; 1 or more.
        environ: their environment, without the variables of ranks; this process's own by
            default.
        resume_hint: what the error about a killed rank tells people to do.

    Returns:
        0 if all ranks returned 0; else the exit code of the first that failed, or
        128 + n where that one was killed by signal n.
    """
    base = dict(os.environ if environ is None else environ)
    with socket.create_server((_LOOPBACK, 0), backlog=max(128, ranks)) as listener:
        processes = [_start(command, rank, ranks, base, listener) for rank in range(ranks)]
    watcher = _Supervisor(processes, resume_hint)
    previous = {number: signal.signal(number, watcher.forward) for number in _FORWARDED}
    try:
        return watcher.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        watcher.kill()


def _start(
    command: Sequence[str],
    rank: int,
    ranks: int,
    base: Mapping[str, str],
    listener: socket.socket,
) -> subprocess.Popen[bytes]:
    environ = {
        # Unless told otherwise, the ranks share the cores instead of fighting for them.
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks)),
        # Each rank would warn that DDP looks for unused parameters and finds none.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        **base,
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(listener.getsockname()[1]),
        SUPERVISOR: str(os.getpid()),
    }
    descriptors: tuple[int, ...] = ()
    if rank == 0:
        environ[LISTENER] = str(listener.fileno())
        descriptors = (listener.fileno(),)
    # In process groups of their own: Ctrl-C reaches the launcher alone, which passes it on once.
    return subprocess.Popen(list(command), env=environ, pass_fds=descriptors, process_group=0)


class _Supervisor:
    """Waits for the ranks; the first that fails decides the outcome."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]], resume_hint: str) -> None:
        self._processes = processes
        self._hint = resume_hint
        self._asked_to_stop = False

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on; the ranks decide what it means."""
        del frame
        self._asked_to_stop = True
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> int:
        """Return the exit code of the whole, when all ranks have ended."""
        while True:
            codes = [process.poll() for process in self._processes]
            failed = [rank for rank, code in enumerate(codes) if code]
            if failed:
                return self._end(failed)
            if all(code == 0 for code in codes):
                return 0
            time.sleep(_POLL_SECONDS)

    def _end(self, failed: Sequence[int]) -> int:
        """One rank has failed: name it if it could not speak, and end the others."""
        killed = [rank for rank in failed if self._code(rank) < 0]
        if killed and not self._asked_to_stop:
            self.kill()
            self._report(killed[0])
            return 128 - self._code(killed[0])
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline and any(p.poll() is None for p in self._processes):
            time.sleep(_POLL_SECONDS)
        ended = [rank for rank, process in enumerate(self._processes) if process.poll()]
        self.kill()
        # A rank that only heard of the loss of another is not the one to judge by.
        codes = [self._code(rank) for rank in [*failed, *ended]]
        own = [code for code in codes if code != EXIT_LOST]
        first = (own or codes)[0]
        return first if first > 0 else 128 - first

    def kill(self) -> None:
        """End every rank that still runs, a stopped one too, and wait for it."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait()

    def _code(self, rank: int) -> int:
        code = self._processes[rank].poll()
        return 0 if code is None else code

    def _report(self, rank: int) -> None:
        number = -self._code(rank)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        reason = f"killed by {name}"
        if number == signal.SIGKILL:
            reason += " (by somebody, or by the system because memory ran out)"
        print_error(
            f"rank {rank} of {len(self._processes)} (process {self._processes[rank].pid}) was "
            f"{reason}; the other ranks were ended. {self._hint}"
        )
