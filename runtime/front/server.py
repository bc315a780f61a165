"""The gRPC server: one generic handler that sends every method down the pipeline.

Refuses what no method is, and messages over the limit, before any of our code sees
them (gRPC's UNIMPLEMENTED and RESOURCE_EXHAUSTED). To gRPC every method streams its
requests: that way a message is received when the pipeline asks for it and not before
the peer is known; until then flow control leaves it with its sender. A message whose bytes do not
parse (a string that is not UTF-8, for one) becomes `MALFORMED`, so that stage 3 can
answer INVALID_ARGUMENT and the refusal is put on record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from runtime.config import Address, LimitsConfig
from runtime.front.call import Call, Peer
from runtime.front.errors import STATUS_DETAILS_KEY, Refusal
from runtime.front.pipeline import Pipeline
from runtime.front.spec import MALFORMED, Kind, Malformed, MethodSpec
from runtime.front.tls import ServerCredentials
from security.errors import UsageError

HANDSHAKE_TIMEOUT_MS = 2000
RECHECK_SECONDS = 0.25
MAX_METADATA_BYTES = 16 * 1024
# How much of a message flow control lets in before anyone asks for it.
LOOKAHEAD_BYTES = 64 * 1024
KEEPALIVE_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
MAX_PING_STRIKES = 2
_WRITE_GRACE_SECONDS = 0.5
_LOG = logging.getLogger("casemate.front")


def _deserializer(cls: type[Message]) -> Callable[[bytes], Message | Malformed]:
    def deserialize(data: bytes) -> Message | Malformed:
        try:
            return cls.FromString(data)
        except DecodeError:
            return MALFORMED

    return deserialize


def _peer(context: aio.ServicerContext[Any, Any]) -> Peer:
    auth: Mapping[str, list[bytes]] = context.auth_context()  # type: ignore[assignment]
    certificate = auth.get("x509_pem_cert") or [b""]
    version = auth.get("ssl_tls_version") or [b""]
    return Peer(certificate[0], version[0].decode("ascii", "replace"))


def _receiver(context: Any) -> Callable[[], Awaitable[Any]]:
    """Return what receives the one message of a call that has one."""

    async def receive() -> Any:
        message = await context.read()
        end = aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
        return MALFORMED if message is end else message

    return receive


class FrontHandler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Finds the method's specification and makes its gRPC handler."""

    def __init__(self, specs: Mapping[str, MethodSpec], pipeline: Pipeline) -> None:
        self.specs = specs
        self._pipeline = pipeline
        self._handlers = {f"/{name}": self._handler(spec) for name, spec in specs.items()}

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method, None for an unknown one."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, spec: MethodSpec) -> Any:
        serialize = spec.response.SerializeToString
        deserialize = _deserializer(spec.request)
        if spec.kind is Kind.UNARY:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(spec),
                request_deserializer=deserialize,
                response_serializer=serialize,
            )
        behaviour = self._bidi(spec) if spec.kind is Kind.BIDI_STREAM else self._stream(spec)
        return grpc.stream_stream_rpc_method_handler(
            behaviour, request_deserializer=deserialize, response_serializer=serialize
        )

    def _unary(self, spec: MethodSpec) -> Any:
        async def behaviour(_requests: Any, context: Any) -> Any:
            answers: list[Any] = []

            async def send(message: Any) -> None:
                answers.append(message)

            call = Call(spec, MALFORMED, _peer(context), context.time_remaining(), send)
            call.receive = _receiver(context)
            await self._pipeline.run(call)
            await _finish(call, context)
            return answers[0]

        return behaviour

    def _stream(self, spec: MethodSpec) -> Any:
        async def behaviour(_requests: Any, context: Any) -> None:
            writer = _Writer(context)
            call = Call(spec, MALFORMED, _peer(context), context.time_remaining(), writer.send)
            call.receive = _receiver(context)
            await self._pipeline.run(call)
            await writer.settle()
            await _finish(call, context)

        return behaviour

    def _bidi(self, spec: MethodSpec) -> Any:
        async def behaviour(requests: AsyncIterator[Any], context: Any) -> None:
            writer = _Writer(context)
            call = Call(spec, None, _peer(context), context.time_remaining(), writer.send, requests)
            await self._pipeline.run(call)
            await writer.settle()
            await _finish(call, context)

        return behaviour


class _Writer:
    """Sends messages one at a time, and knows whether one is still under way.

    gRPC takes one write at a time and no status while one is under way. A call that is
    ended in the middle of a write (its deadline, a revocation) must wait for it; if the
    client does not read, that would be for ever, so the stream is reset instead.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._writing: asyncio.Future[None] | None = None

    async def send(self, message: Any) -> None:
        """Send a message; wait until the transport has taken it."""
        self._writing = asyncio.ensure_future(self._context.write(message))
        await asyncio.shield(self._writing)

    async def settle(self) -> None:
        """Wait a moment for a write under way; give the call up when it does not end."""
        if self._writing is None or self._writing.done():
            return
        await asyncio.wait({self._writing}, timeout=_WRITE_GRACE_SECONDS)
        if not self._writing.done():
            self._writing.cancel()
            raise asyncio.CancelledError


async def _finish(call: Call, context: Any) -> None:
    """Set the trailers; abort where the call was refused."""
    refusal: Refusal | None = call.refusal
    if refusal is None:
        context.set_trailing_metadata(tuple(call.trailers))
        return
    trailers = (*call.trailers, (STATUS_DETAILS_KEY, refusal.status_details()))
    await context.abort(refusal.code, refusal.message, trailing_metadata=trailers)


class GrpcServer:
    """A listening server. `start` binds; `stop` lets running calls end first."""

    def __init__(
        self,
        specs: Mapping[str, MethodSpec],
        pipeline: Pipeline,
        credentials: ServerCredentials,
        limits: LimitsConfig,
    ) -> None:
        self._pipeline = pipeline
        self._credentials = credentials
        self._server = aio.server(options=_options(limits))
        self._server.add_generic_rpc_handlers((FrontHandler(specs, pipeline),))
        self._watch: asyncio.Task[None] | None = None

    async def start(self, listen: Address) -> Address:
        """Bind and serve; return the address with the port that was bound.

        Raises:
            UsageError: the address cannot be bound (the port is in use, for one).
        """
        try:
            port = self._server.add_secure_port(str(listen), self._credentials.grpc_credentials())
        except RuntimeError:
            port = 0
        if not port:
            raise UsageError(
                f"cannot listen on {listen}: the port is in use, or the address is not of this "
                "machine; change appliance.listen"
            )
        await self._server.start()
        self._watch = asyncio.create_task(self._recheck())
        return Address(listen.host, port)

    async def _recheck(self) -> None:
        """Look again at who is connected, and at the files, several times a second."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            # Whatever goes wrong in one look: the next one must come, and the other part too.
            for look in (
                self._credentials.refresh,
                self._pipeline.recheck,
                self._pipeline.record_counts,
            ):
                try:
                    look()
                except Exception as error:
                    _LOG.error("a look at peers and files failed: %s", type(error).__name__)

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new calls, let running ones end within `drain_seconds`, then end them."""
        self._pipeline.parts.draining = True
        # Calls that wait for news would never end by themselves.
        self._end_open(waiting_only=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._pipeline.idle.wait()
        self._end_open(waiting_only=False)
        await self._server.stop(grace=1.0)
        self._pipeline.record_counts(all_of_them=True)
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    def _end_open(self, *, waiting_only: bool) -> None:
        stopping = Refusal(
            grpc.StatusCode.UNAVAILABLE,
            "DRAINING",
            "the appliance is stopping",
            retry_after_seconds=5.0,
        )
        for call in list(self._pipeline.open):
            if call.spec.may_wait or not waiting_only:
                self._pipeline.end(call, stopping)


def _options(limits: LimitsConfig) -> list[tuple[str, int]]:
    age_ms = int(limits.max_connection_age_seconds * 1000)
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        # Windows as they are set, not as a sender's speed would have them grow.
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_connection_age_ms", age_ms),
        # A call that is running when the connection gets too old may end.
        ("grpc.max_connection_age_grace_ms", int(limits.max_deadline_seconds * 1000)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        # Two appliances must not share a port by accident.
        ("grpc.so_reuseport", 0),
        # A peer that has gone gives its place back; one that only pings is sent away.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
