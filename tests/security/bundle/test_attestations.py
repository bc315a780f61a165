"""What a bundle states of its model: what counts as a privacy claim, and what does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from security.bundle.attestations import MAX_ATTESTATION_BYTES, PRIVACY_NAME, privacy_claim
from security.bundle.claim import PrivacyClaim, claim_of, weights_of
from security.bundle.fields import FieldError
from security.bundle.manifest import Variant
from security.bundle.opening import open_bundle
from security.bundle.signing import sign_bundle
from security.errors import AttestationError
from tests.support.forged_bundles import (
    NOW,
    make_bundle,
    make_signed,
    resign,
    signing_keys,
    trusting,
    write,
)
from tests.support.privacy_reports import attest, claim_report

Edit = Callable[[dict[str, Any]], object]


def claim_in(bundle: Path) -> PrivacyClaim | None:
    """Sign the bundle as it is, unseen, open it as an appliance would, and read the claim."""
    resign(bundle)
    with open_bundle(bundle, trusting(), now=NOW) as opened:
        return privacy_claim(opened.files, opened.manifest)


def reason_of(bundle: Path) -> str:
    with pytest.raises(AttestationError) as raised:
        claim_in(bundle)
    return raised.value.reason


def document(bundle: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((bundle / PRIVACY_NAME).read_bytes())
    return read


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = make_bundle(tmp_path / "bundle")
    attest(path, claim_report())
    return path


def test_a_claim_about_the_bundles_own_model_counts(bundle: Path) -> None:
    claim = claim_in(bundle)
    assert claim is not None
    assert (claim.epsilon, claim.delta, claim.unit, claim.contributions) == (3.0, 1e-5, "user", 4)
    assert (claim.neighbours, claim.sampling) == ("zero-out", "truncated-poisson")
    assert claim.audited


def test_a_bundle_without_attestations_makes_no_claim(tmp_path: Path) -> None:
    assert claim_in(make_bundle(tmp_path / "bundle")) is None


def test_other_statements_make_none_and_are_no_obstacle(bundle: Path) -> None:
    write(bundle, "attestations/build.json", b'{"predicateType":"https://slsa.dev/provenance/v1"}')
    assert claim_in(bundle) is not None
    (bundle / PRIVACY_NAME).unlink()
    assert claim_in(bundle) is None


def test_it_must_be_about_every_model_of_the_bundle(tmp_path: Path) -> None:
    two = (Variant.of("default", "llama.cpp"), Variant.of("small", "llama.cpp"))
    path = make_bundle(tmp_path / "bundle", variants=two)
    attest(path, claim_report())
    assert claim_in(path) is not None
    one = document(path)
    one["subject"] = one["subject"][:1]
    write(path, PRIVACY_NAME, json.dumps(one).encode())
    assert reason_of(path) == "attestation-subject"


def _another_model(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"]["sha256"] = "0" * 64


def _another_file(statement: dict[str, Any]) -> None:
    statement["subject"][0]["name"] = "probes.jsonl"


def _one_more(statement: dict[str, Any]) -> None:
    extra = {"name": "variants/other/model.gguf", "digest": {"sha256": "0" * 64}}
    statement["subject"].append(extra)


@pytest.mark.parametrize("edit", [_another_model, _another_file, _one_more])
def test_a_statement_about_something_else_is_refused(bundle: Path, edit: Edit) -> None:
    changed = document(bundle)
    edit(changed)
    write(bundle, PRIVACY_NAME, json.dumps(changed).encode())
    assert reason_of(bundle) == "attestation-subject"


def test_a_statement_of_the_same_model_from_another_bundle_counts(
    bundle: Path, tmp_path: Path
) -> None:
    # Bound to the model, not to the bundle: a repackaged model keeps its claim.
    other = make_bundle(tmp_path / "other", version="2.0.0")
    write(other, PRIVACY_NAME, (bundle / PRIVACY_NAME).read_bytes())
    assert claim_in(other) is not None


def _set(place: str, value: Any) -> Edit:
    def edit(found: Any) -> None:
        *way, last = place.split("/")
        for step in way:
            found = found[int(step)] if step.isdigit() else found[step]
        found[last] = value

    return edit


def _drop(place: str) -> Edit:
    def edit(found: Any) -> None:
        *way, last = place.split("/")
        for step in way:
            found = found[int(step)] if step.isdigit() else found[step]
        del found[last]

    return edit


BAD_STATEMENTS: dict[str, Edit] = {
    "type of another version": _set("_type", "https://in-toto.io/Statement/v0.1"),
    "no type": _drop("_type"),
    "another predicate": _set("predicateType", "https://casemate/privacy/v2"),
    "unknown key": _set("extra", 1),
    "unknown key of the predicate": _set("predicate/note", "hello"),
    "no subject": _set("subject", []),
    "subject as an object": _set("subject", {}),
    "subject without a digest": _drop("subject/0/digest"),
    "digest in capitals": _set("subject/0/digest/sha256", "A" * 64),
    "a second digest": _set("subject/0/digest/sha512", "0" * 128),
    "the predicate is a list": _set("predicate", []),
    "no report": _drop("predicate/report"),
}


@pytest.mark.parametrize("edit", BAD_STATEMENTS.values(), ids=BAD_STATEMENTS.keys())
def test_a_malformed_statement_is_refused(bundle: Path, edit: Edit) -> None:
    changed = document(bundle)
    edit(changed)
    write(bundle, PRIVACY_NAME, json.dumps(changed).encode())
    assert reason_of(bundle) == "attestation-format"


def test_a_subject_named_twice_is_refused(bundle: Path) -> None:
    changed = document(bundle)
    changed["subject"] *= 2
    write(bundle, PRIVACY_NAME, json.dumps(changed).encode())
    assert reason_of(bundle) == "attestation-format"


BAD_REPORTS: dict[str, Edit] = {
    "epsilon as text": _set("claim/epsilon", "3"),
    "epsilon as true": _set("claim/epsilon", True),
    "epsilon of null": _set("claim/epsilon", None),
    "epsilon negative": _set("claim/epsilon", -1),
    "epsilon zero": _set("claim/epsilon", 0),
    "epsilon huge": _set("claim/epsilon", 1e300),
    "epsilon as a list": _set("claim/epsilon", [3]),
    "no epsilon": _drop("claim/epsilon"),
    "delta negative": _set("claim/delta", -1e-5),
    "delta zero": _set("claim/delta", 0),
    "delta one": _set("claim/delta", 1),
    "delta as text": _set("claim/delta", "1e-5"),
    "unit unknown": _set("claim/unit", "token"),
    "unit of another case": _set("claim/unit", "User"),
    "unit as a list": _set("claim/unit", ["user"]),
    "no contributions": _drop("claim/contributions"),
    "contributions zero": _set("claim/contributions", 0),
    "contributions as a fraction": _set("claim/contributions", 1.5),
    "record with contributions": lambda found: found["claim"].update(
        unit="record", user_field=None
    ),
    "record of a user": lambda found: found["claim"].update(unit="record", contributions=1),
    "users of no field": _set("claim/user_field", None),
    "users of a field without a name": _set("claim/user_field", ""),
    "users of a field with a text for a name": _set("claim/user_field", "x" * 201),
    "nothing about what a user is": _drop("claim/user_field"),
    "neighbours unknown": _set("claim/neighbours", "similar"),
    "shuffled, and amplified": _set("claim/sampling", "shuffled"),
    "unknown key of the claim": _set("claim/epsilon_at_most", 1),
    "another format": _set("format", "casemate.privacy/2"),
    "no format": _drop("format"),
    "unknown section": _set("extra", {}),
    "a section is missing": _drop("composition"),
    "the claim is a list": _set("claim", [3, 1e-5]),
    "no audit entry": _drop("evidence/audit"),
    "audit as true": _set("evidence/audit", True),
    "audit by a method unknown": _set("evidence/audit/method", "belief"),
    "audit with more right than guessed": _set("evidence/audit/correct", 41),
    "audit with more guesses than canaries": _set("evidence/audit/guesses", 201),
    "audit sure beyond doubt": _set("evidence/audit/confidence", 1),
    "audit at a larger delta": _set("evidence/audit/delta", 1e-3),
    "audit of a bound that means nothing": _set("evidence/audit/lower_bound", 1e9),
    "audit below what it found": _set("evidence/audit/ceiling", 0.1),
    "audit without a ceiling": _drop("evidence/audit/ceiling"),
    "unknown key of the audit": _set("evidence/audit/passed", True),
    "epsilon below that of the run": _set("composition/epsilon_of_this_run", 3.1),
    "epsilon below the accounting": _set("accounting/curve/pld", [3.1]),
    "epsilon edited": _set("claim/epsilon", 0.3),
    "accounting without a figure": _set("accounting/curve/pld", [None]),
    "accounting at deltas that fall": _set(
        "accounting/curve", {"deltas": [1e-3, 1e-5], "pld": [1.0, 3.0]}
    ),
    "no accounting": _drop("accounting/curve"),
    "audit of canaries that nothing committed to": _set("evidence/canaries_sha256", None),
    "delta above one of all units": _set("mechanism/units", 100_001),
    "no units": _drop("mechanism/units"),
    "a cap that the sampling has not": _set("claim/sampling", "poisson"),
}


@pytest.mark.parametrize("edit", BAD_REPORTS.values(), ids=BAD_REPORTS.keys())
def test_a_claim_that_says_nothing_certain_is_refused(edit: Edit) -> None:
    with pytest.raises(FieldError):
        claim_of(claim_report(edit))


@pytest.mark.parametrize("report", [None, [], "epsilon 3", 3])
def test_a_report_is_an_object(report: object) -> None:
    with pytest.raises(FieldError):
        claim_of(report)
    with pytest.raises(FieldError):
        weights_of(report)


def test_such_a_claim_is_no_claim_of_the_bundle(bundle: Path) -> None:
    attest(bundle, claim_report(epsilon="3"))
    assert reason_of(bundle) == "attestation-format"


@pytest.mark.parametrize("edit", [_set("canaries", 99), _set("confidence", 0.9)])
def test_a_small_or_unsure_audit_is_none(edit: Edit) -> None:
    def smaller(report: dict[str, Any]) -> None:
        edit(report["evidence"]["audit"])

    claim = claim_of(claim_report(smaller))
    assert claim.audit is not None
    assert not claim.audited


def test_without_guesses_nothing_was_audited() -> None:
    def silent(report: dict[str, Any]) -> None:
        report["evidence"]["audit"] |= {"guesses": 0, "correct": 0}

    assert not claim_of(claim_report(silent)).audited
    assert not claim_of(claim_report(_set("evidence/audit", None))).audited


BAD_JSON = {
    "epsilon is NaN": (b'"epsilon":3', b'"epsilon":NaN'),
    "epsilon is infinite": (b'"epsilon":3', b'"epsilon":Infinity'),
    "epsilon overflows": (b'"epsilon":3', b'"epsilon":1e999'),
    "epsilon twice": (b'"epsilon":3', b'"epsilon":300,"epsilon":3'),
    "claim twice": (b'"claim":', b'"claim":{},"claim":'),
    "report twice": (b'"report":', b'"report":{},"report":'),
    "predicate twice": (b'"predicate":', b'"predicate":{},"predicate":'),
    "byte-order mark": (b'{"_type"', b'\xef\xbb\xbf{"_type"'),
    "not UTF-8": (b"zero-out", b"zero\xff"),
    "trailing comma": (b'"hazards":[]', b'"hazards":[],'),
    "nested too deep": (b'"hazards":[]', b'"hazards":' + b"[" * 12 + b"]" * 12),
    "a list": (b'{"_type"', b'[{"_type"'),
}


@pytest.mark.parametrize(("old", "new"), BAD_JSON.values(), ids=BAD_JSON.keys())
def test_json_that_readers_could_read_differently_is_refused(
    bundle: Path, old: bytes, new: bytes
) -> None:
    data = (bundle / PRIVACY_NAME).read_bytes()
    assert data.count(old) == 1
    data = data.replace(old, new)
    write(bundle, PRIVACY_NAME, data + b"]" * data.startswith(b"["))
    assert reason_of(bundle) == "attestation-json"


@pytest.mark.parametrize("name", ["attestations/privacy2.json", "attestations/a.json"])
@pytest.mark.parametrize("epsilon", [3.0, 0.1])
def test_a_second_claim_is_refused_whatever_it_says(
    bundle: Path, name: str, epsilon: float
) -> None:
    attest(bundle, claim_report(epsilon=epsilon), name)
    assert reason_of(bundle) == "attestation-conflict"


def test_a_claim_under_another_name_is_refused_too(bundle: Path) -> None:
    (bundle / PRIVACY_NAME).rename(bundle / "attestations/claims.json")
    assert reason_of(bundle) == "attestation-conflict"


def test_a_second_statement_that_cannot_be_read_could_be_a_second_claim(bundle: Path) -> None:
    write(bundle, "attestations/other.json", b'{"predicateType":"a","predicateType":"b"}')
    assert reason_of(bundle) == "attestation-json"


def test_a_claim_that_its_own_audit_refutes_can_be_read_and_not_be_relied_on(
    bundle: Path,
) -> None:
    report = claim_report(_set("evidence/audit/lower_bound", 3.1))
    claim = claim_of(report)
    assert claim.refuted
    assert not claim.audited
    attest(bundle, report)
    assert reason_of(bundle) == "attestation-refuted"


def test_a_claim_has_a_size_limit(bundle: Path) -> None:
    attest(bundle, claim_report(_set("not_protected", ["x" * (2 << 20)])))
    assert reason_of(bundle) == "attestation-size"


def test_all_attestations_together_have_one(bundle: Path) -> None:
    for number in range(4):
        write(bundle, f"attestations/{number}.json", b" " * MAX_ATTESTATION_BYTES)
    assert reason_of(bundle) == "attestation-size"


def test_a_false_statement_is_not_signed(bundle: Path, tmp_path: Path) -> None:
    sign_bundle(bundle, signing_keys(), now=NOW)
    changed = document(bundle)
    _another_model(changed)
    write(bundle, PRIVACY_NAME, json.dumps(changed).encode())
    before = (bundle / "model.sig").read_bytes()
    with pytest.raises(AttestationError, match="about another model"):
        sign_bundle(bundle, signing_keys(), now=NOW)
    assert (bundle / "model.sig").read_bytes() == before


def test_attestations_of_older_bundles_still_open(tmp_path: Path) -> None:
    path = make_signed(tmp_path / "bundle", {"attestations/a.json": b"{}"})
    with open_bundle(path, trusting(), now=NOW) as opened:
        assert privacy_claim(opened.files, opened.manifest) is None


def test_messages_hold_nothing_of_what_was_refused(bundle: Path) -> None:
    attest(bundle, claim_report(_set("claim/unit", "SECRET\x1b[31m")))
    with pytest.raises(AttestationError) as raised:
        claim_in(bundle)
    assert re.search("SECRET|\x1b", str(raised.value)) is None


def test_a_claim_is_a_value() -> None:
    claim = claim_of(claim_report())
    assert replace(claim, epsilon=3.0) == claim


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
_PLACES = st.sampled_from(
    [
        (*prefix, key)
        for prefix in ((), ("claim",), ("evidence",), ("evidence", "audit"))
        for key in (
            *("claim", "evidence", "format", "audit", "epsilon", "delta", "unit", "user_field"),
            *("contributions", "sampling", "canaries", "guesses", "confidence", "lower_bound"),
        )
    ]
)


@given(changes=st.lists(st.tuples(_PLACES, _VALUES), max_size=3))
def test_whatever_a_report_says_it_is_a_claim_within_bounds_or_none(
    changes: list[tuple[tuple[str, ...], Any]],
) -> None:
    report = claim_report()
    for place, value in changes:
        target = report
        for step in place[:-1]:
            target = target.get(step) if isinstance(target, dict) else None
        if isinstance(target, dict):
            target[place[-1]] = value
    try:
        claim = claim_of(report)
    except FieldError:
        return
    assert 0 < claim.epsilon <= 1000
    assert 0 < claim.delta <= 0.1
    assert claim.unit in {"record", "user"}
    assert claim.contributions == 1 or claim.unit == "user"
