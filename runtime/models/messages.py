"""The catalog's state as ModelService messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from casemate.pb.casemate.v1 import model_pb2
from runtime.policy.admission import PrivacyStanding
from runtime.store.state import State, VersionRecord
from security.bundle.claim import PrivacyClaim

_STATES: Mapping[State, model_pb2.VersionState] = MappingProxyType(
    {
        State.STAGED: model_pb2.VERSION_STATE_STAGED,
        State.PROBING: model_pb2.VERSION_STATE_PROBING,
        State.LIVE: model_pb2.VERSION_STATE_LIVE,
        State.PREVIOUS: model_pb2.VERSION_STATE_PREVIOUS,
        State.RETIRED: model_pb2.VERSION_STATE_RETIRED,
        State.REVOKED: model_pb2.VERSION_STATE_REVOKED,
        State.FAILED: model_pb2.VERSION_STATE_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a version beyond the journal.

    Attributes:
        ready: whether it answers: it is loaded, runs and is admitted.
        privacy: its claim; nothing while it is not loaded.
        variant: id of the variant that runs here, or "" while it is not loaded.
    """

    ready: bool = False
    privacy: PrivacyStanding = field(default_factory=PrivacyStanding)
    variant: str = ""


def version_message(record: VersionRecord, facts: Facts) -> model_pb2.ModelVersion:
    """Return one version as a message."""
    claim = facts.privacy.claim
    return model_pb2.ModelVersion(
        version=record.version,
        state=_STATES[record.state],
        bundle_digest=record.digest,
        security_epoch=record.security_epoch,
        since_ms=record.since_ms,
        reason=record.reason,
        ready=facts.ready,
        privacy=None if claim is None else claim_message(claim),
        variant=facts.variant,
    )


def claim_message(claim: PrivacyClaim) -> model_pb2.PrivacyClaim:
    """Return a privacy claim as a message."""
    return model_pb2.PrivacyClaim(
        epsilon=claim.epsilon,
        delta=claim.delta,
        unit=claim.unit,
        contributions=claim.contributions,
        audited=claim.audited,
        audited_epsilon=claim.audit.lower_bound if claim.audit is not None else 0.0,
        audit_ceiling=claim.audit.ceiling if claim.audit is not None else 0.0,
        user_field=claim.user_field or "",
    )


def model_message(
    name: str, records: Iterable[VersionRecord], facts: Callable[[VersionRecord], Facts]
) -> model_pb2.Model:
    """Return one model as a message.

    Args:
        name: the model's.
        records: its versions, newest state change first.
        facts: tells what is known of a version.
    """
    listed = list(records)
    return model_pb2.Model(
        name=name,
        task=listed[0].task if listed else "",
        versions=[version_message(record, facts(record)) for record in listed],
    )
