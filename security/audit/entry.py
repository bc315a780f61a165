"""One entry of the log, and its canonical bytes.

An entry says who asked what of which model under which policy, and how it ended.
It never holds text of a prompt or an answer, only commitments to them (see
commitment.py). Its bytes are JSON in the canonical form of RFC 8785; a field at
its default is left out. `parse_entry` accepts nothing but those very bytes, so
one entry has one leaf hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, get_args

from security.audit.config import ENTRY_MAX_BYTES
from security.errors import AuditError, UsageError

FORMAT = "casemate.audit/1"
Kind = Literal["admitted", "completed", "denied", "operation"]
KINDS: tuple[str, ...] = get_args(Kind)

# A receipt (entry, key, proof, checkpoint with its two signatures) travels in
# gRPC trailers and must stay below 7,000 bytes; this is what is left for the entry.
COMPLETED_MAX_BYTES = 1_300
VERDICTS_MAX_BYTES = 240

# What `fitted` leaves of a name that no model can have.
_SHORT_CHARS = 16

_TIME_MAX_MS = 253_402_300_799_999  # 9999-12-31
_COUNT_MAX = 2**53 - 1  # the integers that JSON numbers carry exactly
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_HEX_FIELDS = ("bundle_digest", "policy_digest", "request_commitment", "answer_commitment")
_COUNT_FIELDS = ("prompt_tokens", "completion_tokens")
_DURATIONS = ((0.01, "<10ms"), (0.1, "<100ms"), (1.0, "<1s"), (10.0, "<10s"), (60.0, "<60s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What is known of one step of one request, or of one operation.

    Attributes:
        kind: "admitted" (before any answer), "completed" (before the final status),
            "denied" (refused), "operation" (an operator changed something).
        time_ms: Unix time in milliseconds.
        principal: the SPIFFE id of the caller.
        method: the full gRPC method, "package.Service/Method".
        bundle_digest, policy_digest: SHA-256 as 64 hex digits, or "".
        duration_bucket: see `duration_bucket`; exact times would help to guess texts.
        status: the name of the gRPC status code.
        verdicts: the rules that matched, each "name:action".
        request_commitment, answer_commitment: 64 hex digits, or "".
        detail: for an operation, such as "install gemma 1.0.0".

    Raises:
        UsageError: a field does not have the form above.
    """

    kind: Kind
    time_ms: int
    request_id: str = ""
    principal: str = ""
    role: str = ""
    method: str = ""
    model: str = ""
    version: str = ""
    bundle_digest: str = ""
    policy_digest: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_bucket: str = ""
    status: str = ""
    verdicts: tuple[str, ...] = ()
    request_commitment: str = ""
    answer_commitment: str = ""
    detail: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"an audit entry's kind is one of {', '.join(KINDS)}")
        _check_count("time_ms", self.time_ms, _TIME_MAX_MS)
        for name in _COUNT_FIELDS:
            _check_count(name, getattr(self, name), _COUNT_MAX)
        for name in _HEX_FIELDS:
            value = getattr(self, name)
            if not isinstance(value, str) or (value and not _HEX_DIGEST.match(value)):
                raise UsageError(f"audit entry: {name} must be 64 lower-case hex digits or empty")
        for name in _TEXT_FIELDS:
            if not isinstance(getattr(self, name), str):
                raise UsageError(f"audit entry: {name} must be a string")
        object.__setattr__(self, "verdicts", tuple(self.verdicts))
        if not all(isinstance(item, str) and item for item in self.verdicts):
            raise UsageError("audit entry: verdicts must be non-empty strings")

    def encode(self) -> bytes:
        """Return the canonical bytes.

        Raises:
            UsageError: they would be too long for a bundle, or, for a "completed"
                entry, for a receipt; or a text holds a lone surrogate.
        """
        data: dict[str, Any] = {"format": FORMAT}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value != default:
                data[name] = list(value) if name == "verdicts" else value
        try:
            encoded = _canonical(data)
        except UnicodeEncodeError as error:
            raise UsageError("audit entry: a text is not valid Unicode") from error
        limit = COMPLETED_MAX_BYTES if self.kind == "completed" else ENTRY_MAX_BYTES
        if len(encoded) > limit:
            raise UsageError(
                f"audit entry: {len(encoded)} bytes, a {self.kind} entry has at most {limit}"
            )
        return encoded


_DEFAULTS: dict[str, Any] = {
    field.name: None if field.default is MISSING else field.default for field in fields(AuditEntry)
}
_TEXT_FIELDS = tuple(name for name, default in _DEFAULTS.items() if default == "")


def parse_entry(data: bytes) -> AuditEntry:
    """Return the entry whose canonical bytes are exactly `data`.

    Raises:
        AuditError: they are not the canonical bytes of a valid entry.
    """
    try:
        value = json.loads(data)
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise AuditError(f"not an entry of format {FORMAT}")
        if not value.keys() <= _DEFAULTS.keys():
            raise AuditError("the entry has a field that its format does not know")
        if not isinstance(value.get("verdicts", []), list):
            raise AuditError("the entry's verdicts are not a list")
        entry = AuditEntry(**value)
        encoded = entry.encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise AuditError("the entry is not valid JSON of its format") from error
    except UsageError as error:
        raise AuditError(str(error)) from error
    if encoded != data:
        raise AuditError("the entry's bytes are not canonical")
    return entry


def duration_bucket(seconds: float) -> str:
    """Return the bucket of a duration: "<10ms", "<100ms", "<1s", "<10s", "<60s" or ">=60s"."""
    for limit, name in _DURATIONS:
        if seconds < limit:
            return name
    return ">=60s"


def condense_verdicts(verdicts: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct verdicts in order, cut so that a receipt still fits its trailer.

    What is left out is counted in a last item such as "+3". The first matches stay.
    """
    distinct = [item for item in dict.fromkeys(verdicts) if item]
    kept: list[str] = []
    used = 0
    for item in distinct:
        used += len(json.dumps(item, ensure_ascii=False).encode()) + 1
        if used > VERDICTS_MAX_BYTES:
            return (*kept, f"+{len(distinct) - len(kept)}")
        kept.append(item)
    return tuple(kept)


def fitted(entry: AuditEntry) -> AuditEntry:
    """Return the entry, without what is dispensable as far as its limit demands.

    An entry is made when an answer has left already: it must not fail for its length.
    Given up, in this order: the verdicts (counted in one item such as "+3"), the
    detail's end, the end of a version and of a model's name. A name that a bundle may
    have is never shortened, and who asked what with which outcome stays whole.

    Raises:
        UsageError: it does not fit even so; no call of the appliance makes such an entry.
    """
    if _fits(entry):
        return entry
    shorter = replace(entry, verdicts=_counted(entry.verdicts))
    while shorter.detail and not _fits(shorter):
        shorter = replace(shorter, detail=shorter.detail[: len(shorter.detail) // 2])
    if not _fits(shorter):
        shorter = replace(shorter, version=shorter.version[:_SHORT_CHARS])
    if not _fits(shorter):
        shorter = replace(shorter, model=shorter.model[:_SHORT_CHARS])
    shorter.encode()
    return shorter


def _fits(entry: AuditEntry) -> bool:
    try:
        entry.encode()
    except UsageError:
        return False
    return True


def _counted(verdicts: tuple[str, ...]) -> tuple[str, ...]:
    """Return one item that counts the verdicts, those that `condense_verdicts` left out too."""
    if not verdicts:
        return ()
    last = verdicts[-1]
    more = int(last[1:]) - 1 if re.fullmatch(r"\+[0-9]+", last) else 0
    return (f"+{len(verdicts) + more}",)


def _check_count(name: str, value: object, limit: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
        raise UsageError(f"audit entry: {name} must be an integer from 0 to {limit}")


def _canonical(data: dict[str, Any]) -> bytes:
    # RFC 8785 for what an entry holds (ASCII names, strings, integers below 2^53,
    # lists of strings) is what json writes with these options; a test compares the two.
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode()
