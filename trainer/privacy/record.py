"""`privacy.json`: what a model reveals of its training data at most, and how that is known.

The record holds plain values: the claim, the mechanism that makes it true, what accounts
for it, what it adds up with, where the randomness came from, what an audit found, what
privacy cost, what is not protected, and answers to the known hazards. It is bound to one
model: the digests of its weights and of its training record are in it.

docs/formats/privacy.md is normative. Written as canonical JSON (RFC 8785); reading is
strict. The claim itself is read by `security.bundle.claim`, as an appliance reads it, so
that a record cannot claim one thing here and another there. The record holds no text of
the data; names of groups and data sets are those that the owner gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from security.bundle.claim import (
    MAX_REPORT_BYTES,
    MAX_REPORT_DEPTH,
    REPORT_FORMAT,
    REPORT_NAME,
    PrivacyClaim,
    claim_of,
    training_of,
    weights_of,
)
from security.bundle.fields import FieldError
from security.strictjson import StrictJsonError, canonical, parse
from trainer.checkpointing.fields import SHA256, TIME, mapping, text
from trainer.checkpointing.files import flush_folder, write_durably
from trainer.checkpointing.origin import parent_of
from trainer.errors import CheckpointError
from trainer.privacy.plain import from_plain, to_plain
from trainer.privacy.sections import (
    Accounting,
    Claim,
    Composition,
    Evidence,
    GroupUtility,
    Hazard,
    Mechanism,
    ModelIdentity,
    Randomness,
    Utility,
)

__all__ = ["REPORT_NAME", "PrivacyReport", "decode_report", "read_report", "write_report"]
_FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class PrivacyReport:
    """The content of `privacy.json`; see `trainer.privacy.sections`."""

    created: str
    model: ModelIdentity
    claim: Claim
    mechanism: Mechanism
    accounting: Accounting
    composition: Composition
    randomness: Randomness
    evidence: Evidence
    utility: Utility | None
    not_protected: tuple[str, ...]
    hazards: tuple[Hazard, ...]

    @property
    def standing(self) -> PrivacyClaim:
        """The claim with its audit, as an appliance reads it."""
        return claim_of(self._document())

    def encode(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            CheckpointError: a value breaks a rule of docs/formats/privacy.md.
        """
        try:
            data = canonical(self._document())
        except StrictJsonError as error:
            raise CheckpointError(f"{REPORT_NAME} cannot be written: {error}") from error
        decode_report(data)  # nothing is written that could not be read
        return data

    def _document(self) -> dict[str, Any]:
        plain: dict[str, Any] = to_plain(self)
        return {"format": REPORT_FORMAT, **plain}


def decode_report(data: bytes) -> PrivacyReport:
    """Return what the bytes of a `privacy.json` say.

    Raises:
        CheckpointError: naming the key that breaks a rule.
    """
    try:
        document = parse(data, max_bytes=MAX_REPORT_BYTES, max_depth=MAX_REPORT_DEPTH)
        if canonical(mapping(document, REPORT_NAME)) != data:
            raise CheckpointError("no canonical JSON (RFC 8785)")
        claim_of(document, REPORT_NAME)
        weights_of(document, REPORT_NAME)
        training_of(document, REPORT_NAME)
    except (StrictJsonError, FieldError) as error:
        raise CheckpointError(str(error)) from error
    values = mapping(document, REPORT_NAME)
    report = from_plain(
        PrivacyReport, {key: values[key] for key in values if key != "format"}, REPORT_NAME
    )
    _check(report)
    return report


def _check(report: PrivacyReport) -> None:
    """Refuse what each key allows and together cannot be.

    What the claim rests on was checked by `claim_of`, for an appliance checks it too.
    """
    text(report.created, "created", TIME)
    curve, evidence, mechanism = report.accounting.curve, report.evidence, report.mechanism
    if any(len(each) != len(curve.deltas) for each in (curve.pld, curve.rdp, curve.prv)):
        raise CheckpointError("accounting.curve: the lists have different lengths")
    for digest in (evidence.canaries_sha256, report.composition.ledger_head):
        if digest is not None:
            text(digest, "evidence.canaries_sha256 or composition.ledger_head", SHA256)
    if not 0 < mechanism.sampling_probability <= 1:
        raise CheckpointError("mechanism.sampling_probability: must be above 0, at most 1")
    if report.utility is not None:
        _check_utility(report.utility)


def _check_utility(utility: Utility) -> None:
    """Refuse intervals without two ends, and shares without an interval (rule 2.9)."""
    measured: tuple[Utility | GroupUtility, ...] = (utility, *utility.groups)
    for each in measured:
        for interval in (each.private_interval, each.twin_interval, each.cost_interval):
            if len(interval) != 2 or interval[0] > interval[1]:
                raise CheckpointError("utility: an interval is no [low, high]")
    if len(utility.kept_interval) != (0 if utility.kept is None else 2):
        raise CheckpointError("utility.kept_interval: must stand beside utility.kept")


def read_report(folder: Path) -> PrivacyReport:
    """Read the report of a checkpoint and hold it against the weights beside it.

    Raises:
        CheckpointError: it is missing, breaks a rule, or is about another model.
    """
    path = folder / REPORT_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_REPORT_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    try:
        report = decode_report(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if (report.model.weights_sha256, report.model.training_sha256) != digests_of(folder):
        raise CheckpointError(f"{path}: is the report of another model")
    return report


def write_report(folder: Path, report: PrivacyReport) -> Path:
    """Write a report into its checkpoint, replacing the one that is there.

    Raises:
        CheckpointError: it is about another model, or breaks a rule; nothing changes.
        OSError: it cannot be written; what was there stays.
    """
    data = report.encode()
    if (report.model.weights_sha256, report.model.training_sha256) != digests_of(folder):
        raise CheckpointError(f"{folder}: the report is about another model")
    path = folder / REPORT_NAME
    partial = folder / f".{REPORT_NAME}.partial"
    partial.unlink(missing_ok=True)
    write_durably(partial, data)
    partial.chmod(_FILE_MODE)
    partial.replace(path)
    flush_folder(folder)
    return path


def digests_of(folder: Path) -> tuple[str, str]:
    """Return the digests that bind a report: of a checkpoint's weights and of its record.

    Raises:
        CheckpointError: one of them is not there.
    """
    found = parent_of(folder)
    if found.record_sha256 is None:
        raise CheckpointError(f"{folder} has no training.json")
    return found.weights_sha256, found.record_sha256
