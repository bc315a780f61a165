"""One call with its answer, and whether an entry of the log is a record of just that.

The entry is what the receipt proves; the answer is what the appliance says of itself.
Neither is believed alone: a genuine receipt of another call, caller, method or model
proves nothing about this answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from casemate.client.types import Answered
from security.audit.entry import AuditEntry

Parts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Trailer:
    """What came with an answer beside the answer."""

    request_id: str
    receipt: bytes | None


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was asked, and what was answered.

    Attributes:
        method: its path, "/package.Service/Method".
        model, version: what the request names; version "" means the live one.
        answered: what the answer says of itself.
        trailer: what came with it.
        request_parts, answer_parts: what the receipt commits to (docs/formats/audit-log.md).
    """

    method: str
    model: str
    version: str
    answered: Answered
    trailer: Trailer
    request_parts: Parts = field(repr=False)
    answer_parts: Parts = field(repr=False)


def answered(answer: Any, trailer: Trailer) -> Answered:
    """Read what every text answer says about itself."""
    return Answered(
        answer.model,
        answer.version,
        answer.bundle_digest,
        answer.request_id or trailer.request_id,
        trailer.receipt,
    )


def about_inference(answer: Any, trailer: Trailer) -> Answered:
    """Read what an answer of the Open Inference Protocol says about itself."""
    # The protocol's message has no fields of ours: they come as parameters.
    return Answered(
        answer.model_name,
        answer.model_version,
        answer.parameters["casemate_bundle_digest"].string_param,
        answer.parameters["casemate_request_id"].string_param or trailer.request_id,
        trailer.receipt,
    )


def contradiction(entry: AuditEntry, exchange: Exchange, principal: str) -> str:
    """Return what the entry, the call and the answer do not agree on; "" when they agree.

    Args:
        entry: what the receipt proves.
        exchange: the call and its answer, which succeeded.
        principal: the SPIFFE id of the caller.
    """
    return next(_contradictions(entry, exchange, principal), "")


def _contradictions(entry: AuditEntry, exchange: Exchange, principal: str) -> Iterator[str]:
    answered = exchange.answered
    for name, recorded, expected in (
        ("kind", entry.kind, ("completed",)),
        ("status", entry.status, ("OK",)),
        ("request id", entry.request_id, (exchange.trailer.request_id, answered.request_id)),
        ("method", entry.method, (exchange.method.removeprefix("/"),)),
        ("principal", entry.principal, (principal,)),
        ("model", entry.model, (exchange.model, answered.model)),
        ("version", entry.version, (exchange.version or entry.version, answered.version)),
        ("bundle digest", entry.bundle_digest, (answered.bundle_digest,)),
    ):
        if not recorded or any(recorded != each for each in expected):
            yield name
