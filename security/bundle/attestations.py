"""The statements in a bundle's attestations/, of which an appliance relies on one.

An attestation is an in-toto Statement v1. It has no signature of its own: the bundle's
two signatures cover it, so it is read only after they hold (`VerifiedBundle`), and it is
as trustworthy as the bundle's signer. It is bound to the bundle it lies in by its
subjects, which must be the model files, each with its digest: a statement that was made
for another model proves nothing here.

`privacy_claim` is for whoever relies on a claim. It refuses rather than guesses: where
there might be a second claim, or a file that another reader could read otherwise, there
is none.

docs/formats/bundle.md, section 9, is normative; rule numbers in comments are that
document's.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from security.bundle.claim import MAX_REPORT_BYTES, MAX_REPORT_DEPTH, PrivacyClaim, claim_of
from security.bundle.content import ATTESTATION, VerifiedFile
from security.bundle.fields import FieldError, Fields
from security.bundle.manifest import BundleManifest
from security.errors import AttestationError, BundleError
from security.signing.names import printable
from security.strictjson import JsonValue, StrictJsonError, canonical, parse

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PRIVACY_TYPE: Final = "https://casemate/privacy/v1"
TRAINING_TYPE: Final = "https://casemate/training/v1"
PRIVACY_NAME: Final = "attestations/privacy.json"
TRAINING_NAME: Final = "attestations/training.json"

# A training record may list many files of data.
MAX_ATTESTATION_BYTES: Final = 17 << 20
MAX_ATTESTATIONS_BYTES: Final = 64 << 20
_WRAPPING_BYTES: Final = 64 << 10
_MAX_DEPTH: Final = MAX_REPORT_DEPTH + 3
_SUBJECTS: Final = 32


def encode_statement(
    predicate_type: str, subjects: Mapping[str, str], predicate: Mapping[str, JsonValue]
) -> bytes:
    """Return a statement as canonical JSON.

    Args:
        predicate_type: `PRIVACY_TYPE` or `TRAINING_TYPE`.
        subjects: model files of the bundle: name to SHA-256, hexadecimal.
        predicate: what is stated of them.

    Raises:
        StrictJsonError: the predicate has no canonical form.
    """
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {"name": name, "digest": {"sha256": digest}}
                for name, digest in sorted(subjects.items())
            ],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def privacy_claim(
    files: Mapping[str, VerifiedFile], manifest: BundleManifest
) -> PrivacyClaim | None:
    """Return the one privacy claim about a bundle's models, or None where there is none.

    Args:
        files: those of a verified bundle, or of one about to be signed.
        manifest: its bundle.json.

    Raises:
        AttestationError: "attestation-size", "attestation-json", "attestation-format",
            "attestation-conflict", "attestation-subject" or "attestation-refuted";
            docs/formats/bundle.md, section 9.
    """
    names = sorted(name for name in files if ATTESTATION.fullmatch(name))
    # (9.1) Bounded before anything is read.
    if sum(files[name].size_bytes for name in names) > MAX_ATTESTATIONS_BYTES:
        raise AttestationError(
            "attestation-size", f"the attestations have more than {MAX_ATTESTATIONS_BYTES} bytes"
        )
    # (9.2) Every file must be read, to know that none makes a second claim.
    documents = {name: read_document(files[name]) for name in names}
    # (9.3) One name for the claim, and one claim.
    for name, document in documents.items():
        if name != PRIVACY_NAME and document.get("predicateType") == PRIVACY_TYPE:
            raise AttestationError(
                "attestation-conflict",
                f"{printable(name)} makes a privacy claim; only {PRIVACY_NAME} may",
            )
    if PRIVACY_NAME not in documents:
        return None
    try:
        # (9.4) The statement's form, then (9.5) whom it is about, then (9.6) the claim.
        return _privacy(documents[PRIVACY_NAME], files, manifest)
    except FieldError as error:
        raise AttestationError("attestation-format", f"{PRIVACY_NAME}: {error}") from error


def read_document(file: VerifiedFile) -> dict[str, object]:
    """Return a statement as JSON, bounded in size and depth.

    Raises:
        AttestationError: "attestation-size" or "attestation-json".
    """
    limit = MAX_ATTESTATION_BYTES
    if file.name == PRIVACY_NAME:
        limit = MAX_REPORT_BYTES + _WRAPPING_BYTES
    shown = printable(file.name)
    try:
        data = file.read(limit)
    except BundleError as error:
        raise AttestationError("attestation-size", str(error)) from error
    try:
        value = parse(data, max_bytes=limit, max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise AttestationError("attestation-json", f"{shown}: {error}") from error
    if not isinstance(value, dict):
        raise AttestationError("attestation-json", f"{shown}: is no object")
    return value


def _privacy(
    document: dict[str, object], files: Mapping[str, VerifiedFile], manifest: BundleManifest
) -> PrivacyClaim:
    statement = Fields(document, "statement")
    statement.constant("_type", STATEMENT_TYPE)
    statement.constant("predicateType", PRIVACY_TYPE)
    subjects = read_subjects(statement)
    predicate = statement.nested("predicate")
    report = predicate.raw("report")
    predicate.done()
    statement.done()
    check_subjects(subjects, files, manifest, PRIVACY_NAME)
    claim = claim_of(report)
    if claim.refuted:
        raise AttestationError(
            "attestation-refuted", f"{PRIVACY_NAME}: its own audit shows more than it claims"
        )
    return claim


def read_subjects(statement: Fields) -> dict[str, str]:
    """Return the subjects of a statement: name to SHA-256.

    Raises:
        FieldError: they are malformed, or name a file twice.
    """
    found: dict[str, str] = {}
    for subject in statement.nested_list("subject", 1, _SUBJECTS):
        name = subject.name("name")
        digest = subject.nested("digest")
        sha256 = digest.sha256("sha256")
        digest.done()
        subject.done()
        if name in found:
            raise FieldError("statement.subject: names a file twice")
        found[name] = sha256
    return found


def check_subjects(
    subjects: Mapping[str, str],
    files: Mapping[str, VerifiedFile],
    manifest: BundleManifest,
    statement: str,
) -> None:
    """Require exactly the bundle's model files: any of them may be the one that answers.

    Args:
        subjects: of a statement: name to SHA-256.
        files: the bundle's.
        manifest: its bundle.json.
        statement: the statement's name, for the error.

    Raises:
        AttestationError: "attestation-subject".
    """
    expected = {variant.file: files[variant.file].sha256 for variant in manifest.variants}
    if subjects.keys() != expected.keys():
        raise AttestationError(
            "attestation-subject", f"{statement} is not about all of this bundle's models"
        )
    for name, digest in expected.items():
        if not hmac.compare_digest(subjects[name], digest):
            raise AttestationError(
                "attestation-subject", f"{statement} is about another model than {name}"
            )
