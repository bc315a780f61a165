"""The statement that a compilation becomes in a bundle: attestations/compilation.json.

An in-toto Statement v1 about the bundle's model files, by digest, with the record as its
predicate: the inputs' digests, the tools' versions, the parameters and the results. It has
no signature of its own; the bundle's two signatures cover it (docs/formats/bundle.md,
section 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from compiler.errors import ReportError
from compiler.report.record import Compilation
from security.bundle.attestations import encode_statement

COMPILATION_TYPE: Final = "https://casemate/compilation/v1"
COMPILATION_NAME: Final = "attestations/compilation.json"


def statement(record: Compilation, subjects: Mapping[str, str]) -> bytes:
    """Return the statement of a compilation as canonical JSON.

    Args:
        record: the compilation.
        subjects: the bundle's model files, name to SHA-256.

    Raises:
        ReportError: the chosen candidate's file is none of the subjects: the statement
            would be about other models.
    """
    if record.entry(record.chosen).sha256 not in subjects.values():
        raise ReportError(
            "the compilation's chosen file is not among the bundle's models; compile again"
        )
    return encode_statement(COMPILATION_TYPE, subjects, {"record": record.to_dict()})
