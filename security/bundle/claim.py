"""The claim of a privacy report: what a model reveals of its training data at most.

Both who writes a report (trainer) and who relies on one (compiler, runtime) read the
claim here, so that a claim cannot mean one thing to its author and another to an
appliance. docs/formats/privacy.md is normative; rule numbers are that document's.

What it refuses: fields that are missing, unknown, of another type or out of range, and
a claim that the record's own accounting, mechanism or canaries do not bear (rules 2.5,
2.6, 2.8, 2.10, 2.11). A claim that
its own audit refutes can be read, so that it can be shown; nobody may rely on it
(`refuted`). Pure: an object in, a frozen value out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from security.bundle.fields import FieldError, Fields
from security.strictjson import MAX_SAFE_INTEGER

REPORT_FORMAT: Final = "casemate.privacy/1"
REPORT_NAME: Final = "privacy.json"
MAX_REPORT_BYTES: Final = 1 << 20
# Of the report itself; in a statement it lies three levels down.
MAX_REPORT_DEPTH: Final = 8
REPORT_SECTIONS: Final = frozenset(
    {
        "format",
        "created",
        "model",
        "claim",
        "mechanism",
        "accounting",
        "composition",
        "randomness",
        "evidence",
        "utility",
        "not_protected",
        "hazards",
    }
)

UNITS: Final = ("record", "user")
# What differs between two neighbouring data sets: one unit is replaced by nothing that
# contributes, is there or not, or is replaced by another.
NEIGHBOURS: Final = ("zero-out", "add-remove", "substitute")
# How the claim accounts for sampling. "unamplified" is a bound that holds for any order.
SAMPLINGS: Final = ("truncated-poisson", "poisson", "unamplified")
AUDITS: Final = ("one-run",)
MAX_EPSILON: Final = 1000.0
MAX_DELTA: Final = 0.1
MAX_CANARIES: Final = 10_000_000
MAX_FIELD_CHARS: Final = 200

# Below these an audit says too little to be called one.
MIN_AUDIT_CANARIES: Final = 100
MIN_AUDIT_CONFIDENCE: Final = 0.95

# Two roundings of one figure differ by less.
_TOLERANCE: Final = 1e-9

SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class AuditEvidence:
    """What an audit of this very model found.

    Attributes:
        method: "one-run" (Steinke, Nasr and Jagielski, 2023).
        canaries: how many were planted or left out by secret coins.
        guesses: of how many the auditor guessed the coin.
        correct: how many of these guesses were right.
        confidence: probability with which the bound holds, in (0, 1).
        delta: the delta that the bound is for.
        lower_bound: the epsilon that the run has at least.
        ceiling: the largest bound that so many canaries could have shown: a claim above
            it could not have been contradicted by this audit.
    """

    method: str
    canaries: int
    guesses: int
    correct: int
    confidence: float
    delta: float
    lower_bound: float
    ceiling: float

    @property
    def counts(self) -> bool:
        """Whether it is large and sure enough for a rule that asks for an audit."""
        return (
            self.canaries >= MIN_AUDIT_CANARIES
            and self.guesses >= 1
            and self.confidence >= MIN_AUDIT_CONFIDENCE
        )


@dataclass(frozen=True, slots=True)
class PrivacyClaim:
    """(epsilon, delta)-differential privacy of a model's weights.

    Attributes:
        epsilon: over this run and all earlier releases on the same data.
        delta: the probability that epsilon does not bound.
        unit: whom it protects: one "record", or all records of one "user".
        contributions: records of one user that were used at most; 1 for records.
        neighbours: one of `NEIGHBOURS`.
        sampling: one of `SAMPLINGS`.
        audit: the evidence, or None.
        user_field: name of the field of the data by which users were told apart; None for
            records.
    """

    epsilon: float
    delta: float
    unit: str
    contributions: int
    neighbours: str
    sampling: str
    audit: AuditEvidence | None
    user_field: str | None = None

    @property
    def audited(self) -> bool:
        """Whether an audit that counts did not contradict it."""
        return self.audit is not None and self.audit.counts and not self.refuted

    @property
    def refuted(self) -> bool:
        """Whether its own audit shows a larger epsilon; then it is no claim at all."""
        return self.audit is not None and self.audit.lower_bound > self.epsilon


def claim_of(report: object, where: str = "report") -> PrivacyClaim:
    """Return the claim of a parsed privacy report.

    The sections that only people read must be there, and are not looked into; of the
    mechanism, the accounting and the composition, only what the claim rests on is read.

    Raises:
        FieldError: a rule of section 2 of docs/formats/privacy.md is broken.
    """
    if not isinstance(report, dict):
        raise FieldError(f"{where}: must be an object")
    if missing := sorted(REPORT_SECTIONS - report.keys()):
        raise FieldError(f"{where}.{missing[0]}: missing")
    if report.keys() - REPORT_SECTIONS:
        raise FieldError(f"{where}: has an unknown field")
    if report["format"] != REPORT_FORMAT:
        raise FieldError(f"{where}.format: must be {REPORT_FORMAT!r}")
    fields = Fields(report["claim"], f"{where}.claim")
    claim = PrivacyClaim(
        epsilon=fields.number("epsilon", 0, MAX_EPSILON, above_low=True),
        delta=fields.number("delta", 0, MAX_DELTA, above_low=True),
        unit=fields.choice("unit", UNITS),
        contributions=fields.integer("contributions", 1, MAX_SAFE_INTEGER),
        neighbours=fields.choice("neighbours", NEIGHBOURS),
        sampling=fields.choice("sampling", SAMPLINGS),
        audit=_audit(report["evidence"], f"{where}.evidence"),
        user_field=fields.optional_text("user_field", MAX_FIELD_CHARS),
    )
    fields.done()
    _check(claim, where)
    _check_grounds(claim, report, where)
    return claim


def weights_of(report: object, where: str = "report") -> str:
    """Return the SHA-256 of the weights that a report speaks of.

    Raises:
        FieldError: it names none.
    """
    return _digest(report, "weights_sha256", where)


def training_of(report: object, where: str = "report") -> str:
    """Return the SHA-256 of the training.json that a report belongs to.

    Raises:
        FieldError: it names none.
    """
    return _digest(report, "training_sha256", where)


def _digest(report: object, name: str, where: str) -> str:
    model = report.get("model") if isinstance(report, dict) else None
    digest = model.get(name) if isinstance(model, dict) else None
    if not isinstance(digest, str) or SHA256.fullmatch(digest) is None:
        raise FieldError(f"{where}.model.{name}: must be 64 hexadecimal digits")
    return digest


def _audit(value: object, where: str) -> AuditEvidence | None:
    if not isinstance(value, dict) or "audit" not in value:
        raise FieldError(f"{where}.audit: missing")
    if value["audit"] is None:
        return None
    fields = Fields(value["audit"], f"{where}.audit")
    audit = AuditEvidence(
        method=fields.choice("method", AUDITS),
        canaries=fields.integer("canaries", 1, MAX_CANARIES),
        guesses=fields.integer("guesses", 0, MAX_CANARIES),
        correct=fields.integer("correct", 0, MAX_CANARIES),
        confidence=fields.number("confidence", 0, 1, above_low=True, below_high=True),
        delta=fields.number("delta", 0, MAX_DELTA),
        lower_bound=fields.number("lower_bound", 0, MAX_EPSILON),
        ceiling=fields.number("ceiling", 0, MAX_EPSILON),
    )
    fields.done()
    if not audit.correct <= audit.guesses <= audit.canaries:
        raise FieldError(f"{where}.audit: more guesses than canaries, or more right than made")
    if audit.lower_bound > audit.ceiling:
        raise FieldError(f"{where}.audit.ceiling: is below the bound")
    return audit


def _check(claim: PrivacyClaim, where: str) -> None:
    """Refuse what each field allows and together cannot be."""
    if claim.unit == "record" and claim.contributions != 1:
        raise FieldError(f"{where}.claim.contributions: must be 1 where the unit is a record")
    if claim.user_field == "" or (claim.unit == "user") != bool(claim.user_field):
        raise FieldError(f"{where}.claim.user_field: must name a field exactly for users")
    if claim.audit is not None and claim.audit.delta > claim.delta:
        raise FieldError(f"{where}.evidence.audit.delta: is above the claim's")


def _check_grounds(claim: PrivacyClaim, report: dict[str, object], where: str) -> None:
    """Refuse a claim that the rest of its record does not bear."""
    canaries = _part(report, "evidence", "canaries_sha256", where)
    if claim.audit is not None and (
        not isinstance(canaries, str) or SHA256.fullmatch(canaries) is None
    ):
        raise FieldError(f"{where}.evidence.audit: an audit needs canaries_sha256")  # 2.5
    cap = _part(report, "mechanism", "cap", where)
    if claim.sampling == "poisson" and cap is not None:  # 2.6
        raise FieldError(f"{where}.mechanism.cap: the claim's sampling has no cap")
    units = _part(report, "mechanism", "units", where)
    if not isinstance(units, int) or isinstance(units, bool) or units < 1:
        raise FieldError(f"{where}.mechanism.units: must be an integer from 1")
    if claim.delta * units > 1:  # 2.8
        raise FieldError(f"{where}.claim.delta: is above 1/mechanism.units, which protects nobody")
    alone = _number(
        _part(report, "composition", "epsilon_of_this_run", where),
        f"{where}.composition.epsilon_of_this_run",
    )
    if claim.epsilon < alone - _TOLERANCE:  # 2.10
        raise FieldError(f"{where}.claim.epsilon: is below composition.epsilon_of_this_run")
    accounted = _accounted(report, claim.delta, where)
    if accounted is not None and claim.epsilon < accounted - _TOLERANCE:  # 2.11
        raise FieldError(f"{where}.claim.epsilon: is below what accounting.curve.pld gives")


def _accounted(report: dict[str, object], delta: float, where: str) -> float | None:
    """Return the curve's epsilon at the smallest listed delta that is not below `delta`."""
    place = f"{where}.accounting.curve"
    found = _part(report, "accounting", "curve", where)
    deltas, pld = (found.get("deltas"), found.get("pld")) if isinstance(found, dict) else (0, 0)
    if not isinstance(deltas, list) or not isinstance(pld, list) or len(deltas) != len(pld):
        raise FieldError(f"{place}: deltas and pld must be lists of the same length")
    listed = [_number(each, f"{place}.deltas") for each in deltas]
    if any(later <= earlier for earlier, later in pairwise(listed)):
        raise FieldError(f"{place}.deltas: do not rise")
    for each, epsilon in zip(listed, pld, strict=True):
        if each >= delta:
            # A null is no figure, as of a run without noise: nothing finite can be claimed.
            return _number(epsilon, f"{place}.pld")
    return None


def _part(report: dict[str, object], section: str, name: str, where: str) -> object:
    values = report[section]
    if not isinstance(values, dict) or name not in values:
        raise FieldError(f"{where}.{section}.{name}: missing")
    return values[name]


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise FieldError(f"{where}: must be a number, not below 0")
    return value
