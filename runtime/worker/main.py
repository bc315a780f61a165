"""The worker process: close the sandbox, load one model, serve it until told to stop.

It is started by the supervisor with one socket and the bundle's sealed memory files,
and an environment made from nothing. The order is the point of this file:

  1. import everything that will ever be needed (afterwards nothing can be opened)
  2. check that no descriptor but the expected ones is open
  3. close the sandbox
  4. only then read the first message, and parse the model
  5. serve

It refuses to serve when a layer of the sandbox is missing that the operator did not
give up by name. It logs nothing: what the front should know it says in a message.

Threads: this one reads messages; the engine's computes and sends; the lock on the
channel keeps frames whole. Writing blocks while the front does not read, which bounds
what is held here.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import DecodeError

from casemate.pb.casemate.worker.v1 import worker_pb2
from runtime.engine.errors import EngineError
from runtime.errors import FrameError, WorkerError
from runtime.worker import convert, framing, sandbox
from runtime.worker.service import Service
from runtime.worker.warmup import warm_up
from security.bundle.manifest import LLAMA_CPP, BundleManifest, Variant, parse_manifest
from security.errors import CasemateError

_STANDARD_DESCRIPTORS = {0, 1, 2}
_EXIT_REFUSED = 3

ServiceFactory = Callable[
    [
        worker_pb2.LoadModel,
        BundleManifest,
        Variant,
        Callable[[worker_pb2.FromWorker], None],
        int,
    ],
    Service,
]


class Channel:
    """The socket to the front; `send` is safe from any thread."""

    def __init__(self, descriptor: int, limit_bytes: int) -> None:
        self._descriptor = descriptor
        self._limit = limit_bytes
        self._lock = threading.Lock()

    def receive(self) -> worker_pb2.ToWorker | None:
        """Wait for a message; None when the front has closed the channel."""
        payload = framing.read_frame(self._descriptor, self._limit)
        return None if payload is None else worker_pb2.ToWorker.FromString(payload)

    def send(self, message: worker_pb2.FromWorker) -> None:
        """Send a message; an answer too large for a frame becomes a failure."""
        payload = message.SerializeToString()
        if len(payload) > self._limit:
            failed = worker_pb2.Failed(
                id=message.completed.id or message.delta.id,
                reason=worker_pb2.FAILURE_REASON_CAPACITY,
                detail="the answer is too large to be sent",
            )
            payload = worker_pb2.FromWorker(failed=failed).SerializeToString()
        with self._lock:
            try:
                framing.write_frame(self._descriptor, payload, self._limit)
            except OSError:
                # The front is gone, and with it the reason to be here.
                os._exit(0)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="casemate-worker", allow_abbrev=False)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--keep", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--memory-limit-mib", type=int, required=True)
    parser.add_argument("--max-open-files", type=int, required=True)
    parser.add_argument("--max-frame-bytes", type=int, required=True)
    parser.add_argument("--max-queue", type=int, required=True)
    parser.add_argument("--allow-missing-layers", default="")
    return parser.parse_args(argv)


def _numbers(text: str) -> set[int]:
    return {int(part) for part in text.split(",") if part}


def _close_strangers(expected: set[int]) -> None:
    """Close every descriptor that is not expected, whoever opened it."""
    for number in [int(link.name) for link in Path("/proc/self/fd").iterdir()]:
        if number not in expected:
            # The listing's own descriptor is closed by now.
            with suppress(OSError):
                os.close(number)


def _services(backend: str) -> dict[str, ServiceFactory]:
    """Import the backend, with every library it needs; by the bundle's task."""
    if backend == LLAMA_CPP:
        from runtime.worker.text_service import TextService, warm_up_template

        warm_up_template()
        return {"generate": TextService}
    from runtime.worker.graph_service import EncoderService, TensorService

    return {"embed": EncoderService, "classify": EncoderService, "tensor": TensorService}


def _load(
    load: worker_pb2.LoadModel,
    factories: dict[str, ServiceFactory],
    channel: Channel,
    max_queue: int,
) -> Service:
    manifest = parse_manifest(load.bundle_json)
    variant = next((item for item in manifest.variants if item.id == load.variant), None)
    if variant is None or manifest.task not in factories:
        raise WorkerError(f"no variant {load.variant!r} for this worker's backend")
    return factories[manifest.task](load, manifest, variant, channel.send, max_queue)


def _serve(service: Service, channel: Channel) -> None:
    """Handle messages until the front closes the channel."""
    while (message := channel.receive()) is not None:
        match message.WhichOneof("message"):
            case "submit":
                service.submit(message.submit)
            case "cancel":
                service.cancel(message.cancel.id)
            case "ping":
                if not service.alive:
                    os._exit(1)
                channel.send(convert.stats_message(message.ping.nonce, service.stats()))
            case "drain":
                threading.Thread(target=_drain, args=(service, channel), daemon=True).start()
            case _:
                raise FrameError("the front sent a message of an unknown kind")


def _drain(service: Service, channel: Channel) -> None:
    service.drain()
    channel.send(worker_pb2.FromWorker(drained=worker_pb2.Drained()))
    os._exit(0)


def _fail_load(channel: Channel, error: Exception, reason: worker_pb2.FailureReason) -> None:
    ours = isinstance(error, CasemateError | EngineError)
    detail = str(error) if ours else f"{type(error).__name__} in {_where(error)}"
    failed = worker_pb2.Failed(id=0, reason=reason, detail=detail)
    channel.send(worker_pb2.FromWorker(failed=failed))


def _where(error: Exception) -> str:
    """Name the code that raised, which says enough about a defect and nothing about data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "native code"
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


def main(argv: list[str]) -> int:
    """Run the worker; returns the process's exit status."""
    options = _arguments(argv)
    channel = Channel(options.channel, options.max_frame_bytes)
    try:
        # (1) Imports.
        factories = _services(options.backend)
        warm_up()
        # (2) Descriptors.
        _close_strangers(_STANDARD_DESCRIPTORS | {options.channel} | _numbers(options.keep))
        # (3) The sandbox.
        limits = sandbox.SandboxLimits(
            memory_limit_mib=options.memory_limit_mib,
            max_open_files=options.max_open_files,
            parent_pid=options.parent,
        )
        layers = sandbox.enter(limits, tuple(options.allow_missing_layers.split(",")))
    except Exception as error:  # anything here means: do not serve, and say why
        _fail_load(channel, error, worker_pb2.FAILURE_REASON_INTERNAL)
        return _EXIT_REFUSED
    try:
        # (4) The model.
        first = channel.receive()
        if first is None or first.WhichOneof("message") != "load":
            raise FrameError("the front's first message is not a model to load")
        service = _load(first.load, factories, channel, options.max_queue)
    except Exception as error:  # native libraries raise what they like
        _fail_load(channel, error, worker_pb2.FAILURE_REASON_LOAD)
        return _EXIT_REFUSED
    ready = service.ready()
    ready.sandbox.extend(layers)
    # What was loaded stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    channel.send(worker_pb2.FromWorker(ready=ready))
    # (5) Serve.
    try:
        _serve(service, channel)
    except (FrameError, DecodeError):
        os._exit(_EXIT_REFUSED)
    # The engine's thread may be inside a step: leave without waiting for it.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
