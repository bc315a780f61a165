"""One call on its way through the stages: what is known of it so far.

Each stage reads what the stages before it set and sets its own part. Invariants:
a call keeps one policy, one principal and one model version from beginning to end;
`leave` runs once, whatever happens, and gives back all that the call holds.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc

from casemate.pb.casemate.v1 import text_pb2
from runtime.filters.rules import RuleSet
from runtime.front.errors import Refusal
from runtime.front.spec import Kind, MethodSpec
from runtime.models.loaded import ServedVersion
from runtime.policy.model import Policy, Role
from security.identity.peer import Principal

_Code = grpc.StatusCode
_REFUSED_BY_WORKER = frozenset(
    {_Code.RESOURCE_EXHAUSTED, _Code.INVALID_ARGUMENT, _Code.UNAVAILABLE, _Code.UNIMPLEMENTED}
)
# Ends that come from outside, at any point of the work.
_CUT = frozenset(
    {_Code.CANCELLED, _Code.DEADLINE_EXCEEDED, _Code.UNAUTHENTICATED, _Code.UNAVAILABLE}
)


@dataclass(frozen=True, slots=True)
class Peer:
    """What TLS says of the connection a call came on.

    Attributes:
        certificate: the client's certificate, PEM; b"" when there is none.
        tls_version: such as "TLSv1.3"; "" when the connection is no TLS.
    """

    certificate: bytes
    tls_version: str


@dataclass(slots=True, eq=False)
class Call:
    """The state of one call. Lives in the front's event loop."""

    spec: MethodSpec
    request: Any
    peer: Peer
    # Seconds the client gives; None when it set no deadline.
    time_left: float | None
    # Sends one message and waits until the transport takes it.
    send: Callable[[Any], Awaitable[None]]
    # Further requests of a bidirectional call.
    requests: AsyncIterator[Any] | None = None
    # Receives the request, for a call that begins without.
    receive: Callable[[], Awaitable[Any]] | None = None

    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    started: float = field(default_factory=time.monotonic)
    stages: list[str] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    # Why the server itself ended the call; set before its task is cancelled.
    ended_by_server: Refusal | None = None

    # 1 authenticate, 2 authorize
    principal: Principal | None = None
    policy: Policy | None = None
    role: Role | None = None
    # 3 admit
    model: str = ""
    version: str = ""
    served: ServedVersion | None = None
    deadline: float | None = None
    # 4 filter in, 7 filter out
    rules_in: RuleSet | None = None
    rules_out: RuleSet | None = None
    verdicts: list[str] = field(default_factory=list)
    # 5 audit
    commitment_key: bytes = field(default=b"", repr=False)
    request_commitment: str = ""
    admitted: asyncio.Future[int] | None = None
    # 6 dispatch, 7 filter out
    answer: AsyncIterator[Any] | None = None
    usage: text_pb2.Usage = field(default_factory=text_pb2.Usage)
    queue_ms: int | None = None
    first_token: float | None = None
    last_token: float | None = None
    messages_sent: int = 0
    answer_commitment: str = ""
    delivered: list[str] = field(default_factory=list, repr=False)
    # What is charged for work that was cut short, before the worker has counted.
    reserved_tokens: int = 0
    estimated_prompt_tokens: int = 0
    works_begun: int = 0
    works_counted: int = 0
    # Each holds at least one token; more where the client reads slowly.
    deltas: int = 0
    # 8 audit, 9 receipt
    refusal: Refusal | None = None
    # One of many refusals: in a count, without an entry of its own.
    only_counted: bool = False
    completed: concurrent.futures.Future[int] | None = None
    entry: bytes = field(default=b"", repr=False)
    entry_index: int = -1
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list)

    _held: ExitStack = field(default_factory=ExitStack, repr=False)
    _cancels: list[Callable[[], None]] = field(default_factory=list, repr=False)

    @property
    def code(self) -> grpc.StatusCode:
        """The status the call ends with."""
        return grpc.StatusCode.OK if self.refusal is None else self.refusal.code

    @property
    def charged_tokens(self) -> int:
        """What the call costs its principal: the count, or all that it reserved.

        Work that was cut short has not been counted, and what it had done by then shows
        in no number here: a client that reads slowly gets many tokens in one message.
        Only work that the worker refused costs no more than the look at its prompt.
        """
        counted = self.usage.prompt_tokens + self.usage.completion_tokens
        if self.answer is None or self.counted:
            return counted
        if not self.deltas and not self.works_counted and self.code in _REFUSED_BY_WORKER:
            return self.estimated_prompt_tokens
        return max(self.reserved_tokens, counted)

    @property
    def known_completion_tokens(self) -> int:
        """How many tokens were generated; of work that was cut short, at least so many."""
        generated = self.usage.completion_tokens
        return generated if self.counted else max(generated, self.deltas)

    @property
    def counted(self) -> bool:
        """Whether `usage` holds all the work that the call was for."""
        if not self.works_begun or self.works_counted < self.works_begun:
            return False
        # A unary call that was cut may not have begun all its work.
        return self.spec.kind is Kind.SERVER_STREAM or self.code not in _CUT

    def hold(self, release: Callable[[], Any]) -> None:
        """Call `release` when the call ends."""
        self._held.callback(release)

    def enter(self, context: Any) -> Any:
        """Enter a context manager until the call ends; return what it yields."""
        return self._held.enter_context(context)

    def on_cancel(self, cancel: Callable[[], None]) -> None:
        """Register work to be stopped when the call ends before the work does."""
        self._cancels.append(cancel)

    def cancel_work(self) -> None:
        """Stop the work at once. Harmless for work that has ended."""
        cancels, self._cancels = self._cancels, []
        for cancel in cancels:
            cancel()

    def leave(self) -> None:
        """Stop the work and give back everything that is held."""
        self.cancel_work()
        self._held.close()

    def elapsed(self) -> float:
        """Return the seconds since the call arrived."""
        return time.monotonic() - self.started
