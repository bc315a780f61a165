"""probes.jsonl as values: strict reading, canonical writing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from security import strictjson
from security.errors import BundleError

if TYPE_CHECKING:
    from security.bundle.opening import VerifiedBundle

PROBES_FILE = "probes.jsonl"
KINDS = ("generate", "score", "embed", "classify", "tensor")
MAX_PROBES = 64
MAX_LINE_BYTES = 1 << 20
MAX_FILE_BYTES = 4 << 20
_KEYS = {"id", "kind", "request", "expect", "tolerance"}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Probe:
    """One golden request.

    Attributes:
        id: unique in its file.
        kind: which call it makes, one of `KINDS`.
        request: what to ask; fields depend on the kind.
        expect: what was answered when it was recorded.
        tolerance: how far an answer may be from that.
    """

    id: str
    kind: str
    request: Mapping[str, Any] = field(repr=False)
    expect: Mapping[str, Any] = field(repr=False)
    tolerance: Mapping[str, Any] = field(repr=False)


def parse_probes(data: bytes) -> tuple[Probe, ...]:
    """Read probes.jsonl.

    Raises:
        BundleError: reason "bad-probes"; the message says which line and why.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _bad(f"it is over {MAX_FILE_BYTES} bytes")
    lines = data.splitlines()
    if not lines:
        raise BundleError("no-probes", f"{PROBES_FILE} is empty; record probes before signing")
    if len(lines) > MAX_PROBES:
        raise _bad(f"it has over {MAX_PROBES} probes")
    probes = tuple(_parse_line(number, line) for number, line in enumerate(lines, 1))
    if len({probe.id for probe in probes}) != len(probes):
        raise _bad("two probes have the same id")
    return probes


def probes_of(bundle: VerifiedBundle) -> tuple[Probe, ...]:
    """Return the probes of a verified bundle.

    Raises:
        BundleError: it has none ("no-probes"), or they are malformed ("bad-probes").
    """
    verified = bundle.files.get(PROBES_FILE)
    if verified is None:
        raise BundleError(
            "no-probes",
            f"{bundle.manifest.name} {bundle.manifest.version} has no {PROBES_FILE}: record "
            "probes and sign again, or nobody can tell whether it works here",
        )
    if verified.size_bytes > MAX_FILE_BYTES:
        raise _bad(f"it is over {MAX_FILE_BYTES} bytes")
    return parse_probes(verified.read())


def encode_probes(probes: Iterable[Probe]) -> bytes:
    """Return canonical probes.jsonl bytes."""
    return b"".join(
        strictjson.canonical(
            {
                "id": probe.id,
                "kind": probe.kind,
                "request": cast(Any, probe.request),
                "expect": cast(Any, probe.expect),
                "tolerance": cast(Any, probe.tolerance),
            }
        )
        + b"\n"
        for probe in probes
    )


def _parse_line(number: int, line: bytes) -> Probe:
    try:
        value = strictjson.parse(line, max_bytes=MAX_LINE_BYTES)
    except strictjson.StrictJsonError as error:
        raise _bad(f"line {number}: {error}") from error
    if not isinstance(value, dict) or set(value) != _KEYS:
        raise _bad(f"line {number}: it must have exactly the keys {', '.join(sorted(_KEYS))}")
    if not isinstance(value["id"], str) or not _ID.fullmatch(value["id"]):
        raise _bad(f"line {number}: id must be 1 to 64 letters, digits, '.', '_' or '-'")
    if value["kind"] not in KINDS:
        raise _bad(f"line {number}: kind must be one of {', '.join(KINDS)}")
    for key in ("request", "expect", "tolerance"):
        if not isinstance(value[key], dict):
            raise _bad(f"line {number}: {key} must be an object")
    return Probe(**value)


def _bad(problem: str) -> BundleError:
    return BundleError("bad-probes", f"{PROBES_FILE}: {problem}")
