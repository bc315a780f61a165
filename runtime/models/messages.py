"""The catalog's state as ModelService messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from casemate.pb.casemate.v1 import model_pb2
from runtime.store.state import State, VersionRecord

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


def version_message(record: VersionRecord, *, ready: bool) -> model_pb2.ModelVersion:
    """Return one version as a message."""
    return model_pb2.ModelVersion(
        version=record.version,
        state=_STATES[record.state],
        bundle_digest=record.digest,
        security_epoch=record.security_epoch,
        since_ms=record.since_ms,
        reason=record.reason,
        ready=ready,
    )


def model_message(
    name: str, records: Iterable[VersionRecord], ready: Callable[[VersionRecord], bool]
) -> model_pb2.Model:
    """Return one model as a message; `records` come newest state change first."""
    listed = list(records)
    return model_pb2.Model(
        name=name,
        task=listed[0].task if listed else "",
        versions=[version_message(record, ready=ready(record)) for record in listed],
    )
