"""One model version kept served: its worker is started, watched, and started again.

A dead worker fails the requests that were inside it, and nothing else: the host starts
another from the same verified descriptors after a back-off, and stops trying for a
while when it keeps dying (the circuit breaker of `breaker.py`). While no worker is
there, `submit` refuses at once and says when to come back.

The host owns the bundle given to it: `close` closes its descriptors.
All methods belong to the event loop that called `start`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import WorkerError, WorkerGone
from runtime.worker.breaker import BreakerLimits, BreakerState, RestartBreaker
from runtime.worker.settings import WorkerConfig
from runtime.worker.streams import WorkStream
from runtime.worker.supervisor import WorkerProcess
from security.bundle.opening import VerifiedBundle

_log = logging.getLogger(__name__)

# What a fresh start takes on top of the back-off, for the retry hint.
_START_ESTIMATE_MS = 1000
_MIN_RETRY_MS = 100


class ModelHost:
    """Keeps one verified bundle served.

    Args:
        bundle: verified content; its descriptors are used for every start.
        config: limits of the worker and of its supervision.
        on_event: told "ready", "crashed", "breaker-open" and "closed", for metrics.
    """

    def __init__(
        self,
        bundle: VerifiedBundle,
        config: WorkerConfig,
        *,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self.bundle = bundle
        self.config = config
        self.restarts = 0
        self._name = f"{bundle.manifest.name} {bundle.manifest.version}"
        self._on_event = on_event
        self._breaker = RestartBreaker(
            BreakerLimits(
                restart_limit=max(1, config.restart_limit),
                window_seconds=config.restart_window_seconds,
                backoff_seconds=config.restart_backoff_seconds,
                backoff_max_seconds=config.restart_backoff_max_seconds,
            )
        )
        self._worker: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Start the first worker; from then on the model is kept served.

        Raises:
            WorkerError: it could not be started; the host is then closed.
        """
        if self._keeper is not None or self._stopping:
            raise WorkerError(f"the host of {self._name} was started before")
        try:
            self._worker = await WorkerProcess.start(self.bundle, self.config)
        except BaseException:
            self.bundle.close()
            self._stopping = True
            raise
        self._announce("ready")
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    @property
    def ready(self) -> bool:
        """Whether a request would be taken now."""
        return self._worker is not None and self._worker.alive and not self._stopping

    @property
    def breaker_state(self) -> BreakerState:
        """Whether restarts are tried."""
        return self._breaker.state

    @property
    def ready_message(self) -> worker_pb2.Ready | None:
        """What the running worker said about the model; None while there is none."""
        return self._worker.ready if self._worker is not None else None

    @property
    def pid(self) -> int | None:
        """Process id of the running worker."""
        return self._worker.pid if self._worker is not None else None

    @property
    def in_flight(self) -> int:
        """Requests inside the running worker."""
        return self._worker.in_flight if self._worker is not None else 0

    @property
    def places_per_call(self) -> int:
        """How many requests one call of many texts may have inside at a time."""
        return self.config.places_per_call

    @property
    def retry_after_ms(self) -> int:
        """When it is worth asking again, in milliseconds; 0 while ready."""
        if self.ready:
            return 0
        delay_ms = int(self._breaker.delay(time.monotonic()) * 1000)
        return max(_MIN_RETRY_MS, delay_ms + _START_ESTIMATE_MS)

    def stats(self) -> worker_pb2.Pong | None:
        """Return the engine's gauges as of the last heartbeat; None while no worker runs."""
        return self._worker.stats() if self._worker is not None else None

    def submit(self, work: worker_pb2.Submit) -> WorkStream:
        """Send a request to the worker.

        Raises:
            WorkerGone: there is no worker now; `.retry_after_ms` says when there may be.
            WorkFailed: CAPACITY, when the worker has too many requests inside.
        """
        if self._worker is None or not self.ready:
            raise WorkerGone(self.retry_after_ms)
        return self._worker.submit(work)

    async def until_ready(self) -> None:
        """Wait until a worker is there; raises WorkerGone when the host is being closed."""
        while not self.ready:
            if self._stopping:
                raise WorkerGone(_MIN_RETRY_MS)
            self._changed.clear()
            await self._changed.wait()

    async def drain(self, timeout_seconds: float | None = None) -> None:
        """Refuse new requests, let the running ones end within the timeout, then close.

        Without a timeout the configured `drain_seconds` holds.
        """
        self._stop_keeping()
        if self._worker is not None:
            limit = self.config.drain_seconds if timeout_seconds is None else timeout_seconds
            await self._worker.drain(limit)
        await self.close()

    async def close(self) -> None:
        """Kill the worker, if any, and close the bundle. Idempotent."""
        keeper = self._stop_keeping()
        if keeper is not None:
            await asyncio.wait({keeper})
        if self._worker is not None:
            worker, self._worker = self._worker, None
            await worker.kill()
        self.bundle.close()
        self._announce("closed")

    def _stop_keeping(self) -> asyncio.Task[None] | None:
        self._stopping = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
        return keeper

    async def _keep(self) -> None:
        """Wait for the worker's death and start another, as long as the host lives."""
        while self._worker is not None:
            await asyncio.shield(self._worker.closed)
            died, self._worker = self._worker, None
            _log.warning("the worker of %s is gone: %s", self._name, died.death_reason)
            self._record_crash()
            await self._restart()

    async def _restart(self) -> None:
        while self._worker is None:
            await asyncio.sleep(self._breaker.delay(time.monotonic()))
            self._breaker.start_attempt(time.monotonic())
            try:
                self._worker = await WorkerProcess.start(self.bundle, self.config)
            except WorkerError as error:
                _log.warning("the worker of %s did not start: %s", self._name, error)
                self._record_crash()
        self.restarts += 1
        self._announce("ready")

    def _record_crash(self) -> None:
        self._breaker.record_crash(time.monotonic())
        self._announce("crashed")
        if self._breaker.state is BreakerState.OPEN:
            _log.error(
                "the worker of %s keeps dying; no restart for %.0f s",
                self._name,
                self._breaker.delay(time.monotonic()),
            )
            self._announce("breaker-open")

    def _announce(self, event: str) -> None:
        self._changed.set()
        if self._on_event is not None:
            self._on_event(event)
