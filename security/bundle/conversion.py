"""What a bundle's statement of its conversion says, for people: forms and their quality.

No appliance relies on it (docs/formats/bundle.md, section 11). It is as trustworthy as the
bundle's signer, and read like a claim: bounded, strictly, and only if it is about exactly
this bundle's model files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from security.bundle.attestations import (
    STATEMENT_TYPE,
    check_subjects,
    read_document,
    read_subjects,
)
from security.bundle.content import VerifiedFile
from security.bundle.fields import FieldError, Fields
from security.bundle.manifest import BundleManifest
from security.errors import AttestationError

CONVERSION_NAME: Final = "attestations/conversion.json"
CONVERSION_TYPE: Final = "https://casemate/conversion/v1"
CONVERSION_FORMAT: Final = "casemate.conversion/1"
QUALITY_FIGURES: Final = (
    *("kl_mean", "kl_p99", "perplexity", "perplexity_ratio", "top1"),
    *("accuracy", "accuracy_drop", "spearman"),
)
_MAX_VARIANTS: Final = 32
_MOST: Final = 1e15
_MAX_COUNT: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Converted:
    """One model file: its form, and how far it is from the source's own.

    Attributes:
        file: its name in the bundle.
        label: the form, such as "int8".
        quality: the figures of QUALITY_FIGURES, None where one was not measured, and
            `samples`, on how many texts or tokens; None where nothing was measured.
    """

    file: str
    label: str
    quality: Mapping[str, float | None] | None


@dataclass(frozen=True, slots=True)
class Conversion:
    """A statement of a conversion.

    Attributes:
        kind: of the source, such as "gguf".
        model_type: what the source calls its architecture; may be empty.
        promise: name of the quality that was to be kept.
        variants: by the bundle's model files.
    """

    kind: str
    model_type: str
    promise: str
    variants: tuple[Converted, ...]


def conversion_of(files: Mapping[str, VerifiedFile], manifest: BundleManifest) -> Conversion | None:
    """Return what a bundle says of its conversion; None where it says nothing.

    Raises:
        AttestationError: "attestation-size", "-json", "-format" or "-subject".
    """
    if CONVERSION_NAME not in files:
        return None
    document = read_document(files[CONVERSION_NAME])
    try:
        statement = Fields(document, "statement")
        statement.constant("_type", STATEMENT_TYPE)
        statement.constant("predicateType", CONVERSION_TYPE)
        check_subjects(read_subjects(statement), files, manifest, CONVERSION_NAME)
        predicate = statement.nested("predicate")
        predicate.constant("format", CONVERSION_FORMAT)
        source = predicate.nested("source")
        return Conversion(
            source.name("kind"),
            source.optional_text("model_type", 255) or "",
            predicate.nested("promise").name("name"),
            tuple(map(_converted, predicate.nested_list("variants", 1, _MAX_VARIANTS))),
        )
    except FieldError as error:
        raise AttestationError("attestation-format", f"{CONVERSION_NAME}: {error}") from error


def _converted(given: Fields) -> Converted:
    quality: dict[str, float | None] | None = None
    if not given.is_null("quality"):
        figures = given.nested("quality")
        quality = {
            name: None if figures.is_null(name) else figures.number(name, -_MOST, _MOST)
            for name in QUALITY_FIGURES
        }
        quality["samples"] = figures.integer("samples", 0, _MAX_COUNT)
    return Converted(given.name("file"), given.name("label"), quality)
