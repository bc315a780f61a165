"""What the stages share: the appliance's parts, and the shape of a stage."""

from __future__ import annotations

from collections.abc import Awaitable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from runtime.config import LimitsConfig
from runtime.front.bridge import Bridge
from runtime.front.call import Call
from runtime.front.denials import DenialMeter
from runtime.front.limits import Limiter
from runtime.metrics import Metrics
from runtime.models.catalog import ModelCatalog
from runtime.policy.load import PolicyHolder
from security.audit.proof import InclusionProof
from security.identity.peer import Principal


class Verifier(Protocol):
    """Says who a peer is, by files that may change at any time."""

    def verify(self, certificate_pem: bytes) -> Principal:
        """Return the principal; raise `PeerRefused`."""
        ...


class Log(Protocol):
    """What the stages need of the audit log; `security.audit.log.AuditLog` is the real one."""

    @property
    def healthy(self) -> bool:
        """Whether appends are taken."""
        ...

    @property
    def failure(self) -> str:
        """Why they are not."""
        ...

    def append(self, entry: bytes) -> Future[int]:
        """Queue an entry; the future gives its index once it is durable."""
        ...

    def receipt_for(self, index: int) -> Future[InclusionProof]:
        """Prove a durable entry under a signed checkpoint."""
        ...


@dataclass(slots=True)
class Parts:
    """The parts of the appliance that the stages work with."""

    limits: LimitsConfig
    verifier: Verifier
    policies: PolicyHolder
    limiter: Limiter
    catalog: ModelCatalog
    log: Log
    metrics: Metrics
    bridge: Bridge = field(default_factory=Bridge)
    denials: DenialMeter = field(default_factory=DenialMeter)
    draining: bool = False


class Stage(Protocol):
    """One stage. Raises Refusal, or another typed error, to end the call."""

    name: str

    def __call__(self, call: Call) -> Awaitable[None] | None:
        """Do the stage's part; await the result where there is one."""
        ...
