"""The statements that a checkpoint's records become in a bundle.

A checkpoint (docs/formats/checkpoint.md) may hold `training.json`, where its weights
come from, and `privacy.json`, what they reveal at most. Both speak of the weights; the
statements speak of the model file that was made of them here, by its digest, so that the
chain goes on: bundle -> model file -> weights -> data.

What it refuses: a record that is about other weights than the ones beside it, that is
malformed, or whose claim could not be relied on; a source that is changed while it is
read; and to carry a claim over to a model file that was not made of those weights here.
Who signs the bundle vouches for the statements; nothing here verifies the checkpoint's
signatures (`casemate verify CHECKPOINT` does).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compiler.errors import SourceError
from compiler.files import digest_of, read_bytes
from security.bundle.attestations import (
    MAX_ATTESTATION_BYTES,
    PRIVACY_NAME,
    PRIVACY_TYPE,
    TRAINING_NAME,
    TRAINING_TYPE,
    encode_statement,
)
from security.bundle.claim import (
    MAX_REPORT_BYTES,
    MAX_REPORT_DEPTH,
    REPORT_NAME,
    claim_of,
    training_of,
    weights_of,
)
from security.bundle.fields import FieldError
from security.strictjson import JsonValue, StrictJsonError, canonical, parse

RECORD_NAME: Final = "training.json"
_RECORD_FORMAT: Final = "casemate.training/1"
_MAX_RECORD_BYTES: Final = MAX_ATTESTATION_BYTES - (1 << 20)
_MAX_RECORD_DEPTH: Final = 6


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a checkpoint, checked against its weights.

    Attributes:
        weights: the one file of weights that they speak of.
        weights_sha256: its digest when they were read.
        training: training.json as parsed, or None where there is none.
        privacy: privacy.json as parsed, or None.
    """

    weights: Path
    weights_sha256: str
    training: dict[str, JsonValue] | None
    privacy: dict[str, JsonValue] | None

    def statements(self, subjects: dict[str, str]) -> dict[str, bytes]:
        """Return the attestations of a bundle by name.

        Args:
            subjects: the bundle's model files, name to SHA-256.

        Raises:
            SourceError: the weights are not those that the records were read with.
        """
        if digest_of(self.weights) != self.weights_sha256:
            raise SourceError(f"{self.weights}: changed while the bundle was made")
        made = {}
        if self.training is not None:
            predicate: dict[str, JsonValue] = {"record": self.training}
            made[TRAINING_NAME] = encode_statement(TRAINING_TYPE, subjects, predicate)
        if self.privacy is not None:
            predicate = {"report": self.privacy}
            made[PRIVACY_NAME] = encode_statement(PRIVACY_TYPE, subjects, predicate)
        return made


def read_records(weights: Path) -> Records | None:
    """Return the records beside a file of weights; None where there are none.

    Raises:
        SourceError: a record is malformed, or is not about these weights.
    """
    folder = weights.parent
    training_file, privacy_file = folder / RECORD_NAME, folder / REPORT_NAME
    has_training, has_privacy = training_file.exists(), privacy_file.exists()
    if not has_training and not has_privacy:
        return None
    digest = digest_of(weights)
    training = _training(training_file, weights.name, digest) if has_training else None
    privacy = None
    if has_privacy:
        if training is None:
            raise SourceError(f"{privacy_file}: there is no {RECORD_NAME} beside it")
        privacy = _privacy(privacy_file, digest, hashlib.sha256(canonical(training)).hexdigest())
    return Records(weights, digest, training, privacy)


def _object(path: Path, max_bytes: int, max_depth: int) -> dict[str, JsonValue]:
    """Read a record: an object in strict JSON, in its canonical form."""
    data = read_bytes(path, max_bytes)
    try:
        value = parse(data, max_bytes=max_bytes, max_depth=max_depth)
        if not isinstance(value, dict):
            raise SourceError(f"{path}: is no object")
        if canonical(value) != data:
            raise SourceError(f"{path}: is not in canonical form; it was edited by hand")
    except StrictJsonError as error:
        raise SourceError(f"{path}: {error}") from error
    return value


def _training(path: Path, weights: str, digest: str) -> dict[str, JsonValue]:
    record = _object(path, _MAX_RECORD_BYTES, _MAX_RECORD_DEPTH)
    if record.get("format") != _RECORD_FORMAT:
        raise SourceError(f"{path}: the format is not {_RECORD_FORMAT!r}")
    files = record.get("files")
    named = files.get(weights) if isinstance(files, dict) else None
    if not isinstance(named, dict) or named.get("sha256") != digest:
        raise SourceError(f"{path}: is the record of another {weights}")
    return record


def _privacy(path: Path, digest: str, training: str) -> dict[str, JsonValue]:
    report = _object(path, MAX_REPORT_BYTES, MAX_REPORT_DEPTH)
    try:
        claim = claim_of(report)
        about = weights_of(report), training_of(report)
    except FieldError as error:
        raise SourceError(f"{path}: {error}") from error
    if about != (digest, training):
        raise SourceError(f"{path}: is the report of another checkpoint")
    if claim.refuted:
        raise SourceError(
            f"{path}: the model's own audit shows more than it claims; such a claim goes nowhere"
        )
    return report
