"""One worker process as the front sees it: start, requests, heartbeat, drain, kill.

It trusts nothing that comes back. An oversized, empty or unparsable frame kills the
worker; a message about an unknown request, of a kind that does not belong, or a sign of
life that was not asked for is dropped and counted, and many of them kill it too: a
worker must not keep this process busy with nothing. It never reads a model file and
never waits for the worker without a limit.

Invariants:
  - When the worker dies, for whatever reason, every stream that has not ended gets
    WorkerGone, and `closed` resolves with the exit status.
  - At most `config.max_queue` requests are inside, and of one tenant at most
    `config.places_per_tenant`; one more is refused at once.
  - Once the worker is to be killed, nothing that it sent is read any more.
  - All methods belong to the event loop that started the process.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import Any

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.errors import FailureReason, FrameError, WorkerError, WorkerGone, WorkFailed
from runtime.worker.allowance import Allowance
from runtime.worker.channel import Channel
from runtime.worker.framing import frame
from runtime.worker.inside import Inside
from runtime.worker.launch import Child, launch, load_message
from runtime.worker.settings import WorkerConfig
from runtime.worker.streams import WorkStream, failure_from_wire
from runtime.worker.variant import choose_variant, this_cpu
from security.bundle.manifest import Variant
from security.bundle.opening import VerifiedBundle

_RETRY_AFTER_MS = 500
_KILL_GRACE_SECONDS = 5.0
_EXIT_GRACE_SECONDS = 0.5
# What may wait in this process for a worker that does not read.
_MAX_UNSENT_BYTES = 64 << 20


class WorkerProcess:
    """A running worker. Made by `start`; unusable once `closed` is done."""

    def __init__(self, child: Child, config: WorkerConfig, context: str) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[int] = loop.create_future()
        self.pid = child.process.pid
        self.dropped: Counter[str] = Counter()
        self.death_reason = ""
        self._child = child
        self._config = config
        self._context = context
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._ready: asyncio.Future[worker_pb2.Ready] = loop.create_future()
        self._streams = Inside(config)
        self._next_id = 1
        self._draining = False
        self._pong = worker_pb2.Pong()
        self._asked = 0
        self._answered = 0
        self._drops = Allowance(config.max_dropped_messages, config.dropped_period_seconds)
        self._progress = time.monotonic()
        self._heart: asyncio.Task[None] | None = None
        loop.add_reader(child.pidfd, self._on_exit)

    @classmethod
    async def start(
        cls, bundle: VerifiedBundle, config: WorkerConfig, variant: Variant | None = None
    ) -> WorkerProcess:
        """Start a worker for one variant and wait until it is ready.

        Args:
            bundle: verified content; stays open for as long as the worker may be started.
            config: limits of the worker.
            variant: which one; None takes the one that suits this processor.

        Raises:
            NoVariant: none suits this processor.
            WorkerError: the process could not start, the sandbox could not be closed, the
                model could not be loaded (reason LOAD), or it took too long.
        """
        variant = variant or choose_variant(bundle.manifest, this_cpu())
        names = [variant.file]
        if bundle.manifest.tokenizer is not None:
            names.append(bundle.manifest.tokenizer.file)
        descriptors = {name: bundle.files[name].fd for name in names}
        try:
            child = launch(variant.backend, tuple(descriptors.values()), config)
        except OSError as error:
            raise WorkerError(f"cannot start a worker process: {error.strerror}") from error
        self = cls(child, config, f"worker of {bundle.manifest.name} {bundle.manifest.version}")
        try:
            await self._connect()
            self._send(worker_pb2.ToWorker(load=load_message(bundle, variant, descriptors, config)))
            async with asyncio.timeout(config.start_timeout_seconds):
                either: set[asyncio.Future[Any]] = {self._ready, self.closed}
                await asyncio.wait(either, return_when="FIRST_COMPLETED")
        except TimeoutError:
            await self.kill(f"it was not ready within {config.start_timeout_seconds:g} s")
            raise WorkerError(f"{self._context}: {self.death_reason}") from None
        except BaseException:
            await self.kill("its start was given up")
            raise
        if not self._ready.done():
            raise WorkerError(f"{self._context} died while starting: {self.death_reason}")
        try:
            self._ready.result()
        except WorkFailed as error:
            await self.kill("it could not load the model")
            raise WorkerError(f"{self._context}: {error.detail}", error.reason) from None
        self._heart = self._loop.create_task(self._heartbeat())
        return self

    async def _connect(self) -> None:
        transport, _ = await self._loop.create_unix_connection(
            lambda: Channel(self, self._config.max_frame_bytes), sock=self._child.channel
        )
        self._transport = transport

    @property
    def alive(self) -> bool:
        """Whether it takes requests: not dead, not being drained."""
        return not self.closed.done() and not self._draining

    def doomed(self) -> bool:
        """Whether it has been, or is being, killed."""
        return bool(self.death_reason)

    @property
    def ready(self) -> worker_pb2.Ready:
        """What the worker said about itself when it had loaded the model."""
        return self._ready.result()

    @property
    def in_flight(self) -> int:
        """Requests inside the worker."""
        return len(self._streams)

    def stats(self) -> worker_pb2.Pong:
        """Return the engine's gauges as of the last heartbeat."""
        return self._pong

    def submit(self, work: worker_pb2.Submit) -> WorkStream:
        """Send a request; its `id` is assigned here.

        Raises:
            WorkerGone: the worker is dead or draining.
            WorkFailed: CAPACITY when too many requests are inside already.
        """
        if not self.alive or self._transport is None:
            raise WorkerGone(_RETRY_AFTER_MS)
        unsent = self._transport.get_write_buffer_size()
        if unsent > _MAX_UNSENT_BYTES:
            raise WorkFailed(FailureReason.CAPACITY, "", "the worker does not keep up")
        self._streams.check_room(work.tenant)
        work.id = self._next_id
        try:
            self._send(worker_pb2.ToWorker(submit=work))
        except FrameError:
            raise WorkFailed(
                FailureReason.INVALID_ARGUMENT, "", "the request is too large for the worker"
            ) from None
        self._next_id += 1
        limit = self._config.max_stream_bytes
        stream = WorkStream(work.id, self._cancel, limit, bytes(work.tenant))
        if not self._streams:
            self._progress = time.monotonic()
        self._streams.add(stream)
        return stream

    async def drain(self, timeout_seconds: float) -> None:
        """Refuse new requests, let running ones end, then stop; kill after the timeout."""
        self._draining = True
        if not self.closed.done():
            self._send(worker_pb2.ToWorker(drain=worker_pb2.Drain()))
            waiting: set[asyncio.Future[int]] = {self.closed}
            await asyncio.wait(waiting, timeout=timeout_seconds)
        await self.kill("it was drained")

    async def kill(self, reason: str = "it was stopped") -> None:
        """Kill the process and wait until it is gone. Idempotent."""
        self.kill_now(reason)
        try:
            async with asyncio.timeout(_KILL_GRACE_SECONDS):
                await asyncio.shield(self.closed)
        except TimeoutError:
            raise WorkerError(f"{self._context} (pid {self.pid}) does not die") from None

    def kill_now(self, reason: str) -> None:
        """Send SIGKILL at once; `closed` resolves when the kernel has ended it."""
        if self.closed.done():
            return
        self.death_reason = self.death_reason or reason
        self._child.signal(signal.SIGKILL)

    def on_channel_closed(self) -> None:
        """Give a process that is ending the time to say why, then kill it."""
        if not self.closed.done():
            self._loop.call_later(_EXIT_GRACE_SECONDS, self.kill_now, "it closed its channel")

    def on_message(self, message: worker_pb2.FromWorker, size: int) -> None:
        """Handle one message of the worker; `size` is its length in bytes."""
        kind = message.WhichOneof("message")
        match kind:
            case "delta" | "completed":
                identifier = message.delta.id if kind == "delta" else message.completed.id
                self._deliver(identifier, message, size)
            case "failed" if message.failed.id:
                self._fail(message.failed)
            case "failed" if not self._ready.done():
                self._ready.set_exception(failure_from_wire(message.failed))
            case "ready" if not self._ready.done():
                self._ready.set_result(message.ready)
            case "pong":
                self._on_pong(message.pong)
            case "drained" if self._draining:
                # The process exits by itself now; `drain` waits for that.
                pass
            case _:
                self._drop("unexpected message")

    def _deliver(self, identifier: int, message: worker_pb2.FromWorker, size: int) -> None:
        stream = self._streams.get(identifier)
        if stream is None:
            self._drop("unknown request")
            return
        self._progress = time.monotonic()
        stream.push(message, size)
        if message.HasField("completed"):
            self._streams.remove(stream)

    def _fail(self, failed: worker_pb2.Failed) -> None:
        stream = self._streams.get(failed.id)
        if stream is None:
            self._drop("unknown request")
            return
        self._progress = time.monotonic()
        self._streams.remove(stream)
        stream.fail(failure_from_wire(failed))

    def _drop(self, what: str) -> None:
        """Count a message that answers nothing; kill a worker that sends many."""
        self.dropped[what] += 1
        if not self._drops.take(time.monotonic()):
            self.kill_now("it sent too many messages that answer nothing")

    def _on_pong(self, pong: worker_pb2.Pong) -> None:
        if not self._answered < pong.nonce <= self._asked:
            self._drop("unexpected message")
            return
        before = self._pong
        if (pong.prompt_tokens, pong.generation_tokens) != (
            before.prompt_tokens,
            before.generation_tokens,
        ):
            self._progress = time.monotonic()
        self._answered = pong.nonce
        self._pong = pong

    def _cancel(self, identifier: int) -> None:
        if identifier in self._streams and not self.closed.done():
            self._send(worker_pb2.ToWorker(cancel=worker_pb2.Cancel(id=identifier)))

    def _send(self, message: worker_pb2.ToWorker) -> None:
        data = frame(message.SerializeToString(), self._config.max_frame_bytes)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def _heartbeat(self) -> None:
        """Ask for a sign of life, and kill a worker that gives none or makes no progress."""
        while not self.closed.done():
            if self._asked - self._answered >= self._config.missed_heartbeats:
                self.kill_now(f"it missed {self._config.missed_heartbeats} heartbeats")
                return
            if self._streams and self._stalled_seconds() > self._config.stall_seconds:
                self.kill_now(f"it made no progress for {self._config.stall_seconds:g} s")
                return
            self._asked += 1
            self._send(worker_pb2.ToWorker(ping=worker_pb2.Ping(nonce=self._asked)))
            await asyncio.sleep(self._config.heartbeat_seconds)

    def _stalled_seconds(self) -> float:
        return time.monotonic() - self._progress

    def _on_exit(self) -> None:
        """The kernel says that the process has ended: tell everyone who waits."""
        self._loop.remove_reader(self._child.pidfd)
        status = self._child.reap()
        if not self.death_reason:
            self.death_reason = _describe_exit(status)
        if self._heart is not None:
            self._heart.cancel()
        if self._transport is not None:
            self._transport.abort()
        else:
            self._child.channel.close()
        for stream in self._streams.clear():
            stream.fail(WorkerGone(_RETRY_AFTER_MS))
        if not self.closed.done():
            self.closed.set_result(status)


def _describe_exit(status: int) -> str:
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with exit status {status}"
