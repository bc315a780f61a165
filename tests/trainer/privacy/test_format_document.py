"""docs/formats: the privacy report, the statements and the admission rules are as written."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from runtime.policy import parse_policy
from security.bundle import attestations, claim
from trainer.privacy import sections
from trainer.privacy.record import PrivacyReport

FORMATS = Path(__file__).resolve().parents[3] / "docs/formats"
PRIVACY = (FORMATS / "privacy.md").read_text()
BUNDLE = (FORMATS / "bundle.md").read_text()
POLICY = (FORMATS / "policy.md").read_text()


def test_every_key_of_the_record_is_in_the_document() -> None:
    classes = [PrivacyReport, *vars(sections).values(), claim.AuditEvidence]
    names = {
        field.name
        for each in classes
        if isinstance(each, type) and dataclasses.is_dataclass(each)
        for field in dataclasses.fields(each)
    }
    missing = [name for name in names if not re.search(rf"[`.]{name}\b", PRIVACY)]
    assert missing == []


def test_the_documents_numbers_are_the_codes() -> None:
    assert f"at least {claim.MIN_AUDIT_CANARIES} canaries" in PRIVACY
    assert f"confidence of at least {claim.MIN_AUDIT_CONFIDENCE}" in PRIVACY
    assert f"(0, {claim.MAX_EPSILON:.0f}]" in PRIVACY
    assert f"(0, {claim.MAX_EPSILON:.0f}]" in POLICY
    assert f"(0, {claim.MAX_DELTA:g}]" in PRIVACY
    assert f"{claim.MAX_CANARIES:,}" in PRIVACY
    assert claim.MAX_REPORT_BYTES == 1 << 20
    assert attestations.MAX_ATTESTATION_BYTES == 17 << 20
    assert attestations.MAX_ATTESTATIONS_BYTES == 64 << 20
    assert f'"{claim.REPORT_FORMAT}"' in PRIVACY


def test_every_reason_to_rely_on_no_claim_is_in_the_document() -> None:
    source = Path(attestations.__file__).read_text()
    reasons = set(re.findall(r'^ +"(attestation-[a-z]+)"', source, re.MULTILINE))
    reasons |= set(re.findall(r'AttestationError\("(attestation-[a-z]+)"', source))
    assert len(reasons) == 6
    section = BUNDLE.split("## 9. ")[1]
    assert set(re.findall(r"\[`(attestation-[a-z]+)`\]", section)) == reasons
    for uri in (attestations.PRIVACY_TYPE, attestations.TRAINING_TYPE):
        assert f"`{uri}`" in section


def test_the_example_of_a_rule_is_a_rule() -> None:
    example = POLICY.split("## Admission")[1].split("```toml\n")[1].split("```")[0]
    rules = parse_policy(f"version = 1\n{example}".encode()).admission
    assert [(rule.unit, rule.max_epsilon, rule.audited) for rule in rules] == [("user", 8.0, True)]
