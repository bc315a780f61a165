"""The asyncio client. One channel; used from the loop it was made in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from casemate.client import calls, generation, types
from casemate.client.core import ClientConfig, Core, Deadline
from casemate.client.errors import Cancelled, ClientError, from_rpc_error
from casemate.client.generation import Gathered, Generation
from casemate.client.keywords import GenerateKeywords, as_list, options_from
from casemate.client.receipts import Sink
from casemate.client.tensors import Tensor
from casemate.pb.casemate.v1 import text_pb2
from security.errors import UsageError

T = TypeVar("T")


class AsyncGenerationStream:
    """An answer as it arrives: iterate over its pieces, then read `completion`.

    Leaving the loop early does not stop the appliance; `cancel()`, or using the
    stream as a context manager, does.
    """

    def __init__(self, client: AsyncClient, wanted: Generation, deadline: Deadline) -> None:
        self._client = client
        self._wanted = wanted
        self._deadline = deadline
        self._gathered = Gathered()
        self._completion: types.Completion | None = None
        self._call: Any = None
        self._cancelled = False
        self._pieces = self._run()

    def __aiter__(self) -> AsyncIterator[types.Piece]:
        return self._pieces

    async def __anext__(self) -> types.Piece:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    @property
    def completion(self) -> types.Completion:
        """The whole answer, once the pieces have ended; UsageError before."""
        if self._completion is None:
            raise UsageError("the answer has not ended: read all its pieces, or call collect()")
        return self._completion

    async def collect(self) -> types.Completion:
        """Read to the end and return the whole answer."""
        async for _ in self._pieces:
            pass
        return self.completion

    def cancel(self) -> None:
        """Stop the answer; does nothing after its end."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    async def _run(self) -> AsyncIterator[types.Piece]:
        core, attempt = self._client.core, 0
        while True:
            if self._cancelled:
                raise Cancelled("the caller cancelled the call", code="CANCELLED")
            attempt += 1
            began = False
            try:
                self._call = self._client.start_generation(self._wanted, self._deadline)
                async for message in self._call:
                    began = True
                    piece = self._gathered.feed(message)
                    if piece is not None:
                        yield piece
                trailing = await self._call.trailing_metadata()
                break
            except grpc.RpcError as error:
                failure = from_rpc_error(error, core.identity.target, self._wanted.request.model)
                delay = core.delay_after(
                    failure, attempt, self._deadline, idempotent=False, answer_began=began
                )
                if delay is None:
                    raise failure from None
            await asyncio.sleep(delay)
        trailer = core.trailer(trailing)
        completion = self._gathered.completion(trailer)
        answer = self._gathered.answer_parts()
        core.accept(self._wanted.exchange(completion.answered, trailer, answer))
        self._completion = completion


class AsyncAuditView:
    """Read access to the log, checked against what this client holds."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def checkpoint(self, *, timeout_seconds: float | None = None) -> bytes:
        """Return the newest signed checkpoint, unchecked."""
        return await self._client.call(calls.checkpoint(), timeout_seconds)

    async def inclusion(
        self, index: int, tree_size: int = 0, *, timeout_seconds: float | None = None
    ) -> types.InclusionAnswer:
        """Return the proof that entry `index` is in the log of `tree_size` (0: newest)."""
        return await self._client.call(calls.inclusion(index, tree_size), timeout_seconds)

    async def consistency(
        self, old_size: int, new_size: int = 0, *, timeout_seconds: float | None = None
    ) -> types.ConsistencyAnswer:
        """Return the proof that the log grew from `old_size` to `new_size` (0: newest)."""
        return await self._client.call(calls.consistency(old_size, new_size), timeout_seconds)

    async def check(self, *, timeout_seconds: float | None = None) -> types.CheckedLog:
        """Prove that the log still contains everything this client has seen of it.

        Raises:
            AuditError: it has lost or changed entries, or this identity has no log.vkeys.
        """
        keeper = self._client.core.keeper
        new = keeper.newest(await self.checkpoint(timeout_seconds=timeout_seconds))
        size = new.checkpoint.size
        proofs = []
        for head in keeper.heads():
            old = head.checkpoint.size
            needed = 0 < old < size
            proofs.append(
                (
                    head,
                    (await self.consistency(old, size, timeout_seconds=timeout_seconds)).hashes
                    if needed
                    else (),
                )
            )
        return keeper.confirm(new, proofs)


class AsyncClient:
    """Calls one appliance as one identity.

    async with AsyncClient.from_identity("identities/camera-7") as client:
        async for piece in client.generate("gemma-3-270m", "The lighthouse"):
            print(piece.text, end="")
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self._closed = False
        self._channel = grpc.aio.secure_channel(
            core.identity.target, core.credentials(), options=core.options()
        )
        self._generate = self._channel.unary_stream(
            generation.METHOD,
            request_serializer=text_pb2.GenerateRequest.SerializeToString,
            response_deserializer=text_pb2.GenerateResponse.FromString,
        )

    @classmethod
    def from_identity(
        cls,
        folder: Path | str,
        *,
        target: str | None = None,
        receipts: Sink | None = None,
        config: ClientConfig | None = None,
    ) -> AsyncClient:
        """Read an identity folder. Nothing is sent before the first call.

        Args:
            folder: as written by `casemate identity issue`.
            target: "host:port" in place of the one in client.toml.
            receipts: a folder to save receipts in, or a function of (request id, bytes).
            config: limits.

        Raises:
            IdentityError, KeyFileError: the folder is not complete, or not private.
        """
        return cls(Core.load(folder, target, receipts, config))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls still running are cancelled."""
        self._closed = True
        await self._channel.close(grace=None)

    @property
    def audit(self) -> AsyncAuditView:
        """The appliance's audit log."""
        return AsyncAuditView(self)

    def generate(
        self,
        model: str,
        prompt: str,
        *,
        version: str = "",
        timeout_seconds: float | None = None,
        **options: Unpack[GenerateKeywords],
    ) -> AsyncGenerationStream:
        """Continue a text; see `Options` for the keywords. The call starts with the first piece."""
        wanted = generation.of_prompt(model, version, prompt, options_from(options))
        return AsyncGenerationStream(self, wanted, self.core.deadline(timeout_seconds))

    def chat(
        self,
        model: str,
        messages: types.Conversation,
        *,
        version: str = "",
        timeout_seconds: float | None = None,
        **options: Unpack[GenerateKeywords],
    ) -> AsyncGenerationStream:
        """Answer a conversation; see `Options` for the keywords."""
        wanted = generation.of_chat(model, version, messages, options_from(options))
        return AsyncGenerationStream(self, wanted, self.core.deadline(timeout_seconds))

    async def score(
        self,
        model: str,
        texts: Sequence[str],
        *,
        version: str = "",
        timeout_seconds: float | None = None,
    ) -> types.Scores:
        """Return each text's log-probability (natural logarithm), per token."""
        return await self.call(
            calls.score(model, version, as_list("texts", texts)), timeout_seconds
        )

    async def embed(
        self,
        model: str,
        inputs: Sequence[str],
        *,
        version: str = "",
        timeout_seconds: float | None = None,
    ) -> types.Embeddings:
        """Return one vector per input."""
        return await self.call(
            calls.embed(model, version, as_list("inputs", inputs)), timeout_seconds
        )

    async def classify(
        self,
        model: str,
        inputs: Sequence[str],
        *,
        version: str = "",
        timeout_seconds: float | None = None,
    ) -> types.Classifications:
        """Return label probabilities per input."""
        return await self.call(
            calls.classify(model, version, as_list("inputs", inputs)), timeout_seconds
        )

    async def infer(
        self,
        model: str,
        inputs: Sequence[Tensor],
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, bool | int | float | str] | None = None,
        version: str = "",
        timeout_seconds: float | None = None,
    ) -> types.Inference:
        """Call a model by the Open Inference Protocol; no outputs named means all."""
        wanted = calls.infer(model, version, inputs, outputs, parameters or {})
        return await self.call(wanted, timeout_seconds)

    async def models(self, *, timeout_seconds: float | None = None) -> tuple[types.ModelInfo, ...]:
        """Return the models this identity may see."""
        return await self.call(calls.list_models(), timeout_seconds)

    async def describe(
        self, model: str, *, version: str = "", timeout_seconds: float | None = None
    ) -> types.ModelDetails:
        """Return a model and the signed manifest of a version (the live one by default)."""
        return await self.call(calls.describe(model, version), timeout_seconds)

    async def install(
        self, incoming: str, *, stage_only: bool = False, timeout_seconds: float | None = None
    ) -> types.Operation:
        """Install a bundle that lies in the store's incoming folder (operators)."""
        return await self.call(calls.install(incoming, stage_only), timeout_seconds)

    async def promote(
        self, model: str, version: str, *, timeout_seconds: float | None = None
    ) -> types.Operation:
        """Make a version in the store live, after its probes pass (operators)."""
        return await self.call(calls.promote(model, version), timeout_seconds)

    async def rollback(
        self, model: str, *, timeout_seconds: float | None = None
    ) -> types.Operation:
        """Make the previous version live again, at once (operators)."""
        return await self.call(calls.rollback(model), timeout_seconds)

    async def call(self, wanted: calls.Call[T], timeout_seconds: float | None = None) -> T:
        """Make one unary call, again where that is safe."""
        self._require_open()
        deadline, attempt = self.core.deadline(timeout_seconds), 0
        make = self._channel.unary_unary(
            wanted.method,
            request_serializer=type(wanted.request).SerializeToString,
            response_deserializer=wanted.response.FromString,
        )
        while True:
            attempt += 1
            try:
                made = make(wanted.request, timeout=deadline.remaining)
                answer = await made
                trailing = await made.trailing_metadata()
                break
            except grpc.RpcError as error:
                failure: ClientError = from_rpc_error(
                    error, self.core.identity.target, wanted.asked[0]
                )
                delay = self.core.delay_after(
                    failure, attempt, deadline, idempotent=wanted.idempotent
                )
                if delay is None:
                    raise failure from None
            await asyncio.sleep(delay)
        trailer = self.core.trailer(trailing)
        self.core.accept(wanted.exchange(answer, trailer))
        return wanted.read(answer, trailer)

    def start_generation(self, wanted: Generation, deadline: Deadline) -> Any:
        """Start one try of a generation; returns gRPC's call."""
        self._require_open()
        return self._generate(wanted.request, timeout=deadline.remaining)

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("the client is closed")
