"""Notices a rank that died or hangs, and ends the others with one error that names it.

Every rank runs a watch: a thread that beats in a store of rank 0 (or of torchrun) over a
connection of its own, and reads what the others say. Rank 0 compares all beats with its
own clock; the others only look whether rank 0 still beats, so the traffic grows with the
number of ranks and not with its square. A second thread never touches the store: it
notices when the first gets no answer at all, as happens when rank 0 is stopped.

What is written in the store, below the run's prefix:

    beat/<rank>     a counter; silent for `failure_seconds` counts as lost
    host/<rank>     the name of the rank's machine
    verdict         JSON, written once by whoever is first: which rank was lost or failed
    seen            how many ranks have read the verdict

The words come from one rank: rank 0, or when that one is lost the lowest other rank of a
machine; for a rank that failed with an error of its own, that rank itself. Everybody else
ends silently. A process ends by `os._exit`, since its main thread may be stuck in a
collective that never returns; what is on disk is kept consistent by `checkpointing`.

What it cannot see: a rank whose threads still run but whose main thread waits for ever.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

# Where torch keeps their types; torch.distributed only passes the names on.
from torch._C._distributed_c10d import Store

from trainer.distribution.environment import Ranks
from trainer.distribution.lines import EXIT_LOST, print_error

_LONGEST_INTERVAL: Final = 1.0
_BEATS_BEFORE_SILENCE: Final = 5
# The launcher of one machine sees a death at once and speaks itself.
_SUPERVISOR_SECONDS: Final = 2.0
# Rank 0 serves the store, so it leaves after the others have read why.
_FAREWELL_SECONDS: Final = 3.0


class Watch:
    """The watch of one rank; `start` it, then `stop` it or let it `give_up`."""

    def __init__(
        self,
        connect: Callable[[], Store],
        ranks: Ranks,
        failure_seconds: float,
        resume_hint: str,
    ) -> None:
        """`connect` opens a connection to the store that no other thread uses."""
        self._connect = connect
        self._ranks = ranks
        self._limit = failure_seconds
        self._hint = resume_hint
        self._interval = min(_LONGEST_INTERVAL, failure_seconds / _BEATS_BEFORE_SILENCE)
        self._stopping = threading.Event()
        self._told = threading.Event()
        self._announcement: dict[str, Any] | None = None
        self._answered = time.monotonic()
        self._suspended = False
        self._beats: dict[int, tuple[bytes, float]] = {}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Make the first beat and begin to watch."""
        store = self._connect()
        store.set(self._host_key(self._ranks.rank), socket.gethostname())
        store.set(self._beat_key(self._ranks.rank), "0")
        self._answered = time.monotonic()
        for target, arguments in ((self._pulse, (store,)), (self._judge, ())):
            thread = threading.Thread(
                target=target, args=arguments, name="casemate-watch", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the watch; every rank is known to be done."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def give_up(self, error: BaseException, *, echo: bool) -> None:
        """Tell the other ranks that this one fails with `error`.

        It returns on the first rank that fails, so that one rank raises its error; where
        another rank was first, this process ends here.

        Args:
            error: what is about to leave this rank; only the name of its type is told.
            echo: it may only be the echo of another rank's failure. Then this waits for
                the truth first, and ends the process if another rank is to blame.
        """
        if echo:
            # The watch ends this process when it finds a rank silent or reads a verdict.
            self._told.wait(self._limit + 3 * self._interval)
        self._announcement = {
            "kind": "failed",
            "rank": self._ranks.rank,
            "error": type(error).__name__,
        }
        self._told.wait(_FAREWELL_SECONDS + 2 * self._interval)
        self._stopping.set()

    # -- the thread that talks to the store ---------------------------------------------

    def _pulse(self, store: Store) -> None:
        count = 0
        while not self._stopping.wait(self._interval):
            count += 1
            try:
                self._round(store, count)
            except (RuntimeError, OSError, ValueError) as error:
                # torch's DistError is a RuntimeError.
                if not self._stopping.is_set():
                    self._lose_store(f"its connection ended ({type(error).__name__})")
            self._answered = time.monotonic()

    def _round(self, store: Store, count: int) -> None:
        store.set(self._beat_key(self._ranks.rank), str(count))
        if self._announcement is not None:
            store.compare_set("verdict", "", json.dumps(self._announcement))
        if store.check(["verdict"]):
            self._act(store, json.loads(store.get("verdict")))
            return
        watched = range(1, self._ranks.world) if self._ranks.is_first else range(1)
        silent = self._silent(store, list(watched))
        if silent is not None:
            rank, seconds = silent
            host = store.get(self._host_key(rank)).decode()
            verdict = {"kind": "lost", "rank": rank, "host": host, "seconds": round(seconds)}
            current = store.compare_set("verdict", "", json.dumps(verdict))
            self._act(store, json.loads(current))

    def _silent(self, store: Store, watched: list[int]) -> tuple[int, float] | None:
        """Return the first watched rank that has been silent too long, and how long."""
        now = time.monotonic()
        present = [rank for rank in watched if rank in self._beats or self._has_come(store, rank)]
        beats = store.multi_get([self._beat_key(rank) for rank in present]) if present else []
        for rank, beat in zip(present, beats, strict=True):
            known = self._beats.get(rank)
            if known is None or known[0] != beat or now - self._answered > self._limit / 2:
                # After a pause of this process itself everybody gets a new chance.
                self._beats[rank] = (beat, now)
            elif now - known[1] > self._limit:
                return rank, now - known[1]
        return None

    def _has_come(self, store: Store, rank: int) -> bool:
        return bool(store.check([self._beat_key(rank)]))

    def _act(self, store: Store, verdict: dict[str, Any]) -> None:
        rank = int(verdict["rank"])
        if rank == self._ranks.rank and verdict["kind"] == "failed":
            self._wait_until_seen(store)
            self._told.set()
            return
        store.add("seen", 1)
        if rank == self._ranks.rank or verdict["kind"] == "failed":
            self._wait_until_seen(store)
            _exit()
        self._report(rank, str(verdict["host"]), f"no sign of life for {verdict['seconds']} s")
        self._wait_until_seen(store)
        _exit()

    def _wait_until_seen(self, store: Store) -> None:
        """On rank 0, which takes the store with it: wait for the others to read the verdict."""
        if not self._ranks.is_first or self._ranks.hosted:
            return
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while time.monotonic() < deadline:
            if store.add("seen", 0) >= self._ranks.world - 1:
                return
            time.sleep(self._interval / 10)

    # -- the thread that only looks at the clock ------------------------------------------

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._stopping.wait(self._interval):
            now = time.monotonic()
            if self._ranks.supervisor is not None and os.getppid() != self._ranks.supervisor:
                # The launcher is gone, and nobody would ever end this process.
                _exit()
            if now - last > self._limit / 2:
                self._suspended = True
                self._answered = now
            elif now - self._answered > self._limit:
                self._lose_store(f"no answer for {round(now - self._answered)} s")
            last = now

    def _lose_store(self, reason: str) -> NoReturn:
        """Rank 0 (or what serves the store for it) is gone."""
        if not self._suspended:
            host = f"{self._ranks.address}:{self._ranks.port}"
            self._report(0, host, reason)
        _exit()

    # -- words --------------------------------------------------------------------------

    def _report(self, rank: int, host: str, reason: str) -> None:
        if self._ranks.rank != 0 and not (rank == 0 and self._speaks_for_first()):
            return
        if self._ranks.supervisor is not None:
            time.sleep(_SUPERVISOR_SECONDS)
        print_error(
            f"rank {rank} of {self._ranks.world} (on {host}) is lost: {reason}. It hangs, "
            "was killed, ran out of memory, or its machine is gone; the other ranks end here. "
            + self._hint
        )

    def _speaks_for_first(self) -> bool:
        """Whether this is the lowest rank but rank 0 on its machine."""
        on_first_machine = self._ranks.rank == self._ranks.local_rank
        return self._ranks.local_rank == (1 if on_first_machine else 0)

    @staticmethod
    def _beat_key(rank: int) -> str:
        return f"beat/{rank}"

    @staticmethod
    def _host_key(rank: int) -> str:
        return f"host/{rank}"


def _exit() -> NoReturn:
    sys.stdout.flush()
    os._exit(EXIT_LOST)
