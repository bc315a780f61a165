"""What the two clients share: the channel's settings, deadlines, trailers, receipts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from casemate.client.errors import REQUEST_ID_KEY, ClientError
from casemate.client.exchange import Exchange, Trailer
from casemate.client.identity import ClientIdentity, load_identity
from casemate.client.receipts import HELD_NAME, ReceiptKeeper, Sink
from casemate.client.retry import RetryPolicy
from security.errors import UsageError

RECEIPT_KEY = "casemate-receipt-bin"
DEFAULT_TIMEOUT_SECONDS = 60.0
MAX_MESSAGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Limits of a client.

    Attributes:
        timeout_seconds: deadline of a call that names none.
        retry: see `RetryPolicy`.
    """

    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= 86400:
            raise UsageError("timeout_seconds must be above 0 and at most a day")


class Core:
    """The identity and the pure decisions behind a client."""

    def __init__(
        self, identity: ClientIdentity, receipts: Sink | None, config: ClientConfig | None
    ) -> None:
        self.identity = identity
        self.config = config or ClientConfig()
        self.keeper = ReceiptKeeper(
            vkeys=identity.log_vkeys,
            principal=identity.principal() if identity.log_vkeys is not None else "",
            sink=receipts,
            held=identity.folder / HELD_NAME,
        )

    @classmethod
    def load(
        cls,
        folder: Path | str,
        target: str | None,
        receipts: Sink | None,
        config: ClientConfig | None,
    ) -> Core:
        """Read the identity folder; `target` replaces the one in client.toml."""
        identity = load_identity(folder)
        if target is not None:
            identity = replace(identity, target=target)
        return cls(identity, receipts, config)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return mutual TLS credentials; gRPC refuses TLS below 1.2, the appliance below 1.3."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.identity.roots,
            private_key=self.identity.key,
            certificate_chain=self.identity.chain,
        )

    def options(self) -> list[tuple[str, Any]]:
        """Return the channel's options."""
        return [
            ("grpc.ssl_target_name_override", self.identity.server_name),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Channels of one process would share connections, whatever their identity.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),  # ours decide, with what they know of the call
        ]

    def deadline(self, timeout_seconds: float | None) -> Deadline:
        """Start the clock of a call."""
        seconds = self.config.timeout_seconds if timeout_seconds is None else timeout_seconds
        if not seconds > 0:
            raise UsageError("timeout_seconds must be above 0 seconds")
        return Deadline(time.monotonic() + seconds)

    def delay_after(
        self,
        error: ClientError,
        attempt: int,
        deadline: Deadline,
        *,
        idempotent: bool,
        answer_began: bool = False,
    ) -> float | None:
        """Return how long to wait before trying again, or None to give up."""
        return self.config.retry.delay_after(
            error,
            attempt=attempt,
            idempotent=idempotent,
            answer_began=answer_began,
            remaining_seconds=deadline.remaining,
            chance=random.random(),  # noqa: S311 - spreads retries, guards nothing
        )

    def trailer(self, pairs: Iterable[tuple[str, Any]] | None) -> Trailer:
        """Read an answer's trailers."""
        values = {str(key): value for key, value in pairs or ()}
        receipt = values.get(RECEIPT_KEY)
        return Trailer(
            str(values.get(REQUEST_ID_KEY, "")), bytes(receipt) if receipt is not None else None
        )

    def accept(self, exchange: Exchange | None) -> None:
        """Deal with an answer's receipt; None for a call that has none.

        Raises:
            ReceiptError: see `ReceiptKeeper.accept`.
        """
        if exchange is not None:
            self.keeper.accept(exchange)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock."""

    at: float

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())
