"""The catalog's state as ModelService messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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


Facts = Callable[[VersionRecord], tuple[bool, PrivacyStanding]]


def version_message(
    record: VersionRecord, *, ready: bool, privacy: PrivacyStanding
) -> model_pb2.ModelVersion:
    """Return one version as a message."""
    return model_pb2.ModelVersion(
        version=record.version,
        state=_STATES[record.state],
        bundle_digest=record.digest,
        security_epoch=record.security_epoch,
        since_ms=record.since_ms,
        reason=record.reason,
        ready=ready,
        privacy=None if privacy.claim is None else claim_message(privacy.claim),
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
    )


def model_message(name: str, records: Iterable[VersionRecord], facts: Facts) -> model_pb2.Model:
    """Return one model as a message.

    Args:
        name: the model's.
        records: its versions, newest state change first.
        facts: tells of a version whether it can answer, and its privacy claim.
    """
    listed = [(record, *facts(record)) for record in records]
    return model_pb2.Model(
        name=name,
        task=listed[0][0].task if listed else "",
        versions=[
            version_message(record, ready=ready, privacy=privacy)
            for record, ready, privacy in listed
        ],
    )
