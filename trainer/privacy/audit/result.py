"""What an audit found, as values and as JSON.

Invariant: a claim is contradicted by the canaries' lower bound alone, whose confidence is
proven; nothing else here can contradict one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.privacy.audit.exposure import Exposure
from trainer.privacy.audit.membership import Membership
from trainer.privacy.audit.one_run import OneRunBound


@dataclass(frozen=True, slots=True)
class Claim:
    """What is claimed: (epsilon, delta) for one record or user."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class CanaryAudit:
    """What the canaries show.

    Attributes:
        digest: SHA-256 of canaries.json, to be compared with the one committed before
            training.
        planted: canaries that were in the data.
        bound: the proven lower bound on epsilon.
        exposure: against fresh records.
        membership: those planted against those left out.
    """

    digest: str
    planted: int
    bound: OneRunBound
    exposure: Exposure
    membership: Membership

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "digest": self.digest,
            "canaries": self.bound.canaries,
            "planted": self.planted,
            "lower_bound": self.bound.to_dict(),
            "exposure": self.exposure.to_dict(),
            "membership": self.membership.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What an audit found.

    Attributes:
        claim: what was audited; None if nothing is claimed.
        canaries: None if there were none.
        membership: of real records; None if none were given.
        calibrated: whether a reference model's scores were taken off.
    """

    claim: Claim | None
    canaries: CanaryAudit | None
    membership: Membership | None
    calibrated: bool

    @property
    def contradicted(self) -> bool | None:
        """Whether the lower bound is above the claim; None without claim or canaries."""
        if self.claim is None or self.canaries is None:
            return None
        return self.canaries.bound.epsilon > self.claim.epsilon

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        claim = self.claim
        return {
            "claim": claim and {"epsilon": claim.epsilon, "delta": claim.delta},
            "contradicted": self.contradicted,
            "calibrated": self.calibrated,
            "canaries": self.canaries and self.canaries.to_dict(),
            "membership": self.membership and self.membership.to_dict(),
        }
