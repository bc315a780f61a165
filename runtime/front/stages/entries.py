"""The entries of the audit log that a call makes."""

from __future__ import annotations

import time
from typing import Literal

from runtime.front.call import Call
from runtime.front.denials import Unlisted
from security.audit.entry import AuditEntry, condense_verdicts, duration_bucket, fitted

_MAX_DETAIL_CHARS = 128


def entry_of(call: Call, kind: Literal["admitted", "completed", "denied"]) -> bytes:
    """Return the canonical bytes of the entry for what is known of the call now."""
    principal, served = call.principal, call.served
    ended = kind != "admitted"
    detail = call.refusal.reason if ended and call.refusal is not None else ""
    entry = AuditEntry(
        kind=kind,
        time_ms=time.time_ns() // 1_000_000,
        request_id=call.request_id,
        principal=principal.spiffe_id if principal else "",
        role=principal.role if principal else "",
        method=call.spec.name,
        model=call.model,
        version=call.version,
        bundle_digest=served.digest if served else "",
        policy_digest=call.policy.digest if call.policy else "",
        prompt_tokens=call.usage.prompt_tokens if ended else 0,
        completion_tokens=call.known_completion_tokens if ended else 0,
        duration_bucket=duration_bucket(call.elapsed()) if ended else "",
        status=call.code.name if ended else "",
        verdicts=condense_verdicts(call.verdicts),
        request_commitment=call.request_commitment,
        answer_commitment=call.answer_commitment if kind == "completed" else "",
        detail=detail[:_MAX_DETAIL_CHARS],
    )
    # The answer has left when a completed entry is made: its length must not stop it.
    return fitted(entry).encode()


def counted_entry(refused: Unlisted) -> bytes:
    """Return the entry for refusals that have none of their own."""
    return AuditEntry(
        kind="denied",
        time_ms=time.time_ns() // 1_000_000,
        principal=refused.principal,
        role=refused.role,
        detail=f"{refused.count} more refused",
    ).encode()


def operation_entry(
    detail: str, principal: str = "", role: str = "", request_id: str = ""
) -> bytes:
    """Return the entry for something an operator, or the appliance itself, changed."""
    return AuditEntry(
        kind="operation",
        time_ms=time.time_ns() // 1_000_000,
        request_id=request_id,
        principal=principal,
        role=role,
        detail=detail[:_MAX_DETAIL_CHARS],
    ).encode()
