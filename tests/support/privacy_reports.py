"""Privacy reports and the statements around them, good ones and any others."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from security.bundle.attestations import PRIVACY_NAME, PRIVACY_TYPE, encode_statement
from tests.support.forged_bundles import write

DIGEST = "ab" * 32

_REPORT: dict[str, Any] = {
    "format": "casemate.privacy/1",
    "created": "2026-01-02T03:04:05Z",
    "model": {"name": "tiny", "weights_sha256": DIGEST, "training_sha256": DIGEST},
    "claim": {
        "epsilon": 3.0,
        "delta": 1e-5,
        "unit": "user",
        "user_field": "author",
        "contributions": 4,
        "neighbours": "zero-out",
        "sampling": "truncated-poisson",
    },
    "mechanism": {"units": 2000, "cap": 308},
    "accounting": {"curve": {"deltas": [1e-5, 1e-3], "pld": [3.0, 1.0]}},
    "composition": {"epsilon_of_this_run": 2.5},
    "randomness": {},
    "evidence": {
        "canaries_sha256": DIGEST,
        "audit": {
            "method": "one-run",
            "canaries": 200,
            "guesses": 40,
            "correct": 23,
            "confidence": 0.95,
            "delta": 1e-5,
            "lower_bound": 0.2,
            "ceiling": 3.6,
        },
        "exposure": None,
        "membership": None,
    },
    "utility": None,
    "not_protected": [],
    "hazards": [],
}


def claim_report(edit: Callable[[dict[str, Any]], object] | None = None, **claim: Any) -> Any:
    """A report whose claim is epsilon 3, delta 1e-5, per user, audited; with changes.

    What only people read is empty: nothing but the writer looks into it. Its accounting
    says what it claims.
    """
    report = copy.deepcopy(_REPORT)
    report["claim"] |= claim
    if report["claim"]["unit"] == "record":
        report["claim"]["user_field"] = None
    epsilon, delta = report["claim"]["epsilon"], report["claim"]["delta"]
    report["composition"]["epsilon_of_this_run"] = epsilon
    report["accounting"]["curve"] = {"deltas": [delta], "pld": [epsilon]}
    if edit is not None:
        edit(report)
    return report


def model_digests(bundle: Path) -> dict[str, str]:
    """The digests of the model files of the bundle at `bundle`."""
    variants = json.loads((bundle / "bundle.json").read_bytes())["variants"]
    return {
        each["file"]: hashlib.sha256((bundle / each["file"]).read_bytes()).hexdigest()
        for each in variants
    }


def attest(bundle: Path, report: Any, name: str = PRIVACY_NAME) -> None:
    """Put a statement about the bundle's own models into it; signs nothing."""
    write(bundle, name, encode_statement(PRIVACY_TYPE, model_digests(bundle), {"report": report}))
