"""One line of a ledger: its five kinds, its encoding, its place in the chain.

A line is a JSON object in canonical form (RFC 8785) with a line end. Its `link` is the
SHA-256 of the link before (32 bytes; zeros before the first line) and of the line
without `link`, so no line can be changed, left out or moved without a break that shows.
There is no key in it: somebody who rewrites the whole file makes a chain that holds. What
shows that is a head kept elsewhere (see docs/formats/privacy-ledger.md).

What it refuses: any bytes that are not exactly what `encode` writes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from security.strictjson import MAX_SAFE_INTEGER, StrictJsonError, canonical, parse
from trainer.privacy.errors import LedgerError, PrivacyError
from trainer.privacy.event import Event
from trainer.privacy.ledger_names import check_dataset, check_run_id, check_unit

LEDGER_FORMAT: Final = "casemate.privacy-ledger/1"
MAX_LINE_BYTES: Final = 4096
# What the first line's link follows.
GENESIS: Final = "0" * 64

_LINK: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Budget:
    """What the owner of a data set allows in all.

    Attributes:
        dataset: the name of the data; a ledger with a budget takes charges for it alone.
        epsilon, delta: what all releases together may reach.
        unit: "record" or "user": whom the budget protects.
        user_field: of the data, what tells users apart; "" where the unit is a record.

    Raises:
        PrivacyError: values that are no budget.
    """

    dataset: str
    epsilon: float
    delta: float
    unit: str = "record"
    user_field: str = ""

    def __post_init__(self) -> None:
        check_dataset(self.dataset)
        check_unit(self.unit, self.user_field)
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise PrivacyError(f"a budget of epsilon {self.epsilon!r} is no number above 0")
        if not 0 < self.delta < 1:
            raise PrivacyError(f"a budget of delta {self.delta!r} is not between 0 and 1")


@dataclass(frozen=True, slots=True)
class Opened:
    """The first line: the format, and what the owner allows."""

    budget: Budget | None
    time_ms: int


@dataclass(frozen=True, slots=True)
class Announced:
    """A run that is about to take charges of one mechanism; takes none itself.

    Attributes:
        run_id: of the run.
        dataset: the name that its data counts under.
        unit: whom its event protects.
        event: the mechanism, with the updates that are still to be made.
        time_ms: Unix time.
        user_field: of the data, what tells users apart; "" where the unit is a record.
    """

    run_id: str
    dataset: str
    unit: str
    event: Event
    time_ms: int
    user_field: str = ""


@dataclass(frozen=True, slots=True)
class Charged:
    """One update of the run announced last; `step` counts from 0."""

    run_id: str
    step: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Tuned:
    """Updates of tuning runs that no ledger holds, by the run announced last; they count."""

    run_id: str
    updates: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Torn:
    """Ends what a crash left: each piece counts as a charge of the run announced last.

    Attributes:
        fragments: pieces before it on its line, separated by tabs; at least 1.
        sha256: of their bytes, the tabs between them included.
        time_ms: Unix time.
    """

    fragments: int
    sha256: str
    time_ms: int


Line = Opened | Announced | Charged | Tuned | Torn


def encode(line: Line, previous: str) -> tuple[bytes, str]:
    """Return the bytes of a line, line end included, and its link.

    Raises:
        LedgerError: no reader would accept it, or it is longer than a line may be.
    """
    values = _to_dict(line)
    link = _link(previous, values)
    try:
        data = canonical({**values, "link": link}) + b"\n"
    except StrictJsonError as error:
        raise LedgerError(f"the ledger cannot hold this: {error}") from error
    if len(data) > MAX_LINE_BYTES:
        raise LedgerError(f"a ledger line of {len(data)} bytes; the limit is {MAX_LINE_BYTES}")
    # Nothing may be written that would be refused when it is read.
    if decode(data[:-1], previous) != (line, link):
        raise LedgerError("a ledger line would not be read as it was meant")
    return data, link


def decode(data: bytes, previous: str) -> tuple[Line, str]:
    """Return what a line (without its line end) says, and its link.

    Raises:
        LedgerError: it is not exactly a line that follows `previous`; says why.
    """
    try:
        values = parse(data, max_bytes=MAX_LINE_BYTES, max_depth=3)
        if not isinstance(values, dict) or canonical(values) != data:
            raise LedgerError("it is not in canonical form")
    except StrictJsonError as error:
        raise LedgerError(f"it is no JSON: {error}") from error
    link = values.pop("link", None)
    if link != _link(previous, values):
        raise LedgerError("its link does not follow from it and the line before")
    try:
        return _from_dict(values), link
    except LedgerError:
        raise
    except PrivacyError as error:
        raise LedgerError(str(error)) from error


def _link(previous: str, values: Mapping[str, Any]) -> str:
    try:
        body = canonical(values)
    except StrictJsonError as error:
        raise LedgerError(f"the ledger cannot hold this: {error}") from error
    return hashlib.sha256(bytes.fromhex(previous) + body).hexdigest()


def _to_dict(line: Line) -> dict[str, Any]:
    if isinstance(line, Opened):
        budget = line.budget
        return {
            "kind": "opened",
            "format": LEDGER_FORMAT,
            "time_ms": line.time_ms,
            "budget": budget
            and {
                "dataset": budget.dataset,
                "epsilon": budget.epsilon,
                "delta": budget.delta,
                **_unit(budget.unit, budget.user_field),
            },
        }
    if isinstance(line, Announced):
        return {
            "kind": "run",
            "run": line.run_id,
            "dataset": line.dataset,
            **_unit(line.unit, line.user_field),
            "event": line.event.to_dict(),
            "time_ms": line.time_ms,
        }
    if isinstance(line, Charged):
        return {"kind": "charge", "run": line.run_id, "step": line.step, "time_ms": line.time_ms}
    if isinstance(line, Tuned):
        return {
            "kind": "tuning",
            "run": line.run_id,
            "updates": line.updates,
            "time_ms": line.time_ms,
        }
    return {
        "kind": "torn",
        "fragments": line.fragments,
        "sha256": line.sha256,
        "time_ms": line.time_ms,
    }


def _from_dict(values: Mapping[str, Any]) -> Line:
    kind = values.get("kind")
    if kind == "opened":
        _check_keys(values, "format", "budget")
        if values["format"] != LEDGER_FORMAT:
            raise LedgerError(f"its format is not {LEDGER_FORMAT}")
        return Opened(_budget(values["budget"]), _count(values, "time_ms"))
    if kind == "run":
        _check_keys(values, "run", "dataset", *_unit_keys(values), "event")
        dataset, unit, user_field = _text(values, "dataset"), *_unit_of(values)
        check_dataset(dataset)
        check_unit(unit, user_field)
        if not isinstance(values["event"], dict):
            raise LedgerError("its event is no object")
        event = Event.from_dict(values["event"])
        time_ms = _count(values, "time_ms")
        return Announced(_run_id(values), dataset, unit, event, time_ms, user_field)
    if kind == "charge":
        _check_keys(values, "run", "step")
        return Charged(_run_id(values), _count(values, "step"), _count(values, "time_ms"))
    if kind == "tuning":
        _check_keys(values, "run", "updates")
        return Tuned(_run_id(values), _count(values, "updates"), _count(values, "time_ms"))
    if kind == "torn":
        _check_keys(values, "fragments", "sha256")
        if not _LINK.fullmatch(_text(values, "sha256")):
            raise LedgerError("its sha256 is not 64 hex digits")
        return Torn(_count(values, "fragments"), values["sha256"], _count(values, "time_ms"))
    raise LedgerError("its kind is unknown")


def _budget(value: object) -> Budget | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise LedgerError("its budget is no object")
    if set(value) != {"dataset", "epsilon", "delta", *_unit_keys(value)}:
        raise LedgerError("the keys of its budget are not those of a budget")
    for key in ("epsilon", "delta"):
        if isinstance(value[key], bool) or not isinstance(value[key], int | float):
            raise LedgerError(f"{key} of its budget is no number")
    return Budget(
        _text(value, "dataset"),
        float(value["epsilon"]),
        float(value["delta"]),
        *_unit_of(value),
    )


def _unit(unit: str, user_field: str) -> dict[str, str]:
    """Return whom something protects, as it is written: the field where the unit is a user."""
    return {"unit": unit} | ({"user_field": user_field} if unit == "user" else {})


def _unit_keys(values: Mapping[str, Any]) -> tuple[str, ...]:
    return ("unit", "user_field") if values.get("unit") == "user" else ("unit",)


def _unit_of(values: Mapping[str, Any]) -> tuple[str, str]:
    """Return a unit and the field behind it; the keys were checked."""
    unit = _text(values, "unit")
    return unit, _text(values, "user_field") if unit == "user" else ""


def _check_keys(values: Mapping[str, Any], *names: str) -> None:
    if set(values) != {"kind", "time_ms", *names}:
        raise LedgerError("its keys are not those of its kind")


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise LedgerError(f"its {key} is no text")
    return value


def _run_id(values: Mapping[str, Any]) -> str:
    value = _text(values, "run")
    check_run_id(value)
    return value


def _count(values: Mapping[str, Any], key: str) -> int:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SAFE_INTEGER:
        raise LedgerError(f"its {key} is no whole number from 0 on")
    return value
