"""Admission rules: what a policy may ask of a model's privacy claim, and what it refuses."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.cli.templates import POLICY
from runtime.policy import AdmissionRule, PolicyError, PrivacyStanding, parse_policy
from security.bundle.claim import AuditEvidence, PrivacyClaim

RULE = """\
[[admission]]
models = ["gemma-*", "minilm"]
unit = "user"
max_epsilon = 8.0
max_delta = 1e-5
audited = true
"""
AUDIT = AuditEvidence("one-run", 200, 40, 23, 0.95, 1e-5, 0.2, 9.0)
CLAIM = PrivacyClaim(8.0, 1e-5, "user", 4, "zero-out", "truncated-poisson", AUDIT)


def refusal(claim: PrivacyClaim | None, *, model: str = "minilm", rules: str = RULE) -> str:
    policy = parse_policy(f"version = 1\n{rules}".encode())
    return policy.refusal(model, PrivacyStanding(claim))


def test_a_claim_at_the_bounds_is_admitted() -> None:
    assert refusal(CLAIM) == ""
    assert refusal(CLAIM, model="gemma-3-270m") == ""


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (None, "no privacy claim"),
        (replace(CLAIM, unit="record"), "protects a record, and a user is asked for"),
        (replace(CLAIM, epsilon=math.nextafter(8.0, 9)), "epsilon is 8.*above 8"),
        (replace(CLAIM, epsilon=math.inf), "epsilon is inf"),
        (replace(CLAIM, epsilon=math.nan), "epsilon is nan"),
        (replace(CLAIM, delta=2e-5), "delta is 2e-05, above 1e-05"),
        (replace(CLAIM, delta=math.nan), "delta is nan"),
        (replace(CLAIM, audit=None), "not audited"),
        (replace(CLAIM, audit=replace(AUDIT, lower_bound=8.1)), "audit shows more than it claims"),
        (replace(CLAIM, audit=replace(AUDIT, canaries=99)), "not audited .with 100 canaries"),
    ],
)
def test_a_claim_that_falls_short_is_refused_with_the_reason(
    claim: PrivacyClaim | None, reason: str
) -> None:
    told = refusal(claim)
    assert re.search(reason, told) is not None, told


def test_an_audit_that_could_have_shown_little_can_be_refused() -> None:
    asking = RULE + "min_audit_ceiling = 3.0\n"
    weak = replace(CLAIM, audit=replace(AUDIT, ceiling=2.9))
    assert refusal(weak) == ""
    assert refusal(weak, rules=asking) == (
        "its audit could have shown epsilon 2.9 at most, and 3 is asked for"
    )
    assert refusal(CLAIM, rules=asking) == ""
    assert "not audited" in refusal(replace(CLAIM, audit=None), rules=asking)


def test_every_shortfall_is_told_at_once() -> None:
    told = refusal(replace(CLAIM, epsilon=9.0, audit=None))
    assert "epsilon is 9" in told
    assert "not audited" in told


def test_a_claim_that_cannot_be_relied_on_is_refused_whatever_it_says() -> None:
    policy = parse_policy(f"version = 1\n{RULE}".encode())
    told = policy.refusal("minilm", PrivacyStanding(claim=CLAIM, problem="two statements"))
    assert told == "its privacy claim cannot be relied on: two statements"


def test_a_model_that_no_rule_names_needs_nothing() -> None:
    assert refusal(None, model="minilm2") == ""
    assert refusal(None, rules="") == ""


def test_every_rule_that_names_a_model_must_hold() -> None:
    looser = '[[admission]]\nunit = "user"\nmax_epsilon = 10\nmax_delta = 0.001\n'
    stricter = looser.replace("10", "2")
    assert refusal(CLAIM, rules=RULE + looser) == ""
    assert "above 2" in refusal(CLAIM, rules=looser + RULE + stricter)
    assert "above 2" in refusal(CLAIM, model="other", rules=RULE + stricter)


@given(
    epsilon=st.floats(0.01, 1000),
    bound=st.floats(0.01, 1000),
    delta=st.floats(1e-12, 0.1),
    delta_bound=st.floats(1e-12, 0.1),
)
def test_admitted_is_exactly_what_is_within_both_bounds(
    epsilon: float, bound: float, delta: float, delta_bound: float
) -> None:
    rule = AdmissionRule(("*",), "user", bound, delta_bound)
    claim = replace(CLAIM, epsilon=epsilon, delta=delta, audit=None)
    admitted = rule.refusal(PrivacyStanding(claim)) == ""
    assert admitted == (epsilon <= bound and delta <= delta_bound)


BAD = {
    "unknown key": RULE + "max_epsilons = 3\n",
    "a misspelt bound": RULE.replace("max_delta", "delta"),
    "no unit": RULE.replace('unit = "user"\n', ""),
    "unit unknown": RULE.replace('"user"', '"token"'),
    "unit as a list": RULE.replace('"user"', '["user"]'),
    "no epsilon": RULE.replace("max_epsilon = 8.0\n", ""),
    "epsilon as text": RULE.replace("8.0", '"8.0"'),
    "epsilon as true": RULE.replace("8.0", "true"),
    "epsilon zero": RULE.replace("8.0", "0"),
    "epsilon negative": RULE.replace("8.0", "-8"),
    "epsilon not a number": RULE.replace("8.0", "nan"),
    "epsilon infinite": RULE.replace("8.0", "inf"),
    "epsilon beyond what means something": RULE.replace("8.0", "1001"),
    "no delta": RULE.replace("max_delta = 1e-5\n", ""),
    "delta one": RULE.replace("1e-5", "1.0"),
    "delta not a number": RULE.replace("1e-5", "nan"),
    "audited as text": RULE.replace("true", '"yes"'),
    "audited as a number": RULE.replace("true", "1"),
    "a ceiling of an audit not asked for": RULE.replace("true", "false")
    + "min_audit_ceiling = 3.0\n",
    "a ceiling as text": RULE + 'min_audit_ceiling = "3"\n',
    "models as text": RULE.replace('["gemma-*", "minilm"]', '"*"'),
    "no models": RULE.replace('["gemma-*", "minilm"]', "[]"),
    "a model pattern that matches nothing": RULE.replace("minilm", "mini*lm"),
    "a table and no array": RULE.replace("[[admission]]", "[admission]"),
    "a number": "admission = 3\n",
    "an array of numbers": "admission = [3]\n",
    "too many": RULE * 101,
}


@pytest.mark.parametrize("rules", BAD.values(), ids=BAD.keys())
def test_a_rule_with_a_mistake_refuses_the_whole_policy(rules: str) -> None:
    with pytest.raises(PolicyError, match="admission"):
        parse_policy(f"version = 1\n{rules}".encode())


def test_the_template_shows_a_rule_that_holds_once_it_is_no_comment() -> None:
    assert parse_policy(POLICY.encode()).admission == ()
    start = POLICY.index("# [[admission]]")
    rule = POLICY[start:].replace("# ", "")
    (read,) = parse_policy(f"{POLICY[:start]}{rule}".encode()).admission
    assert (read.unit, read.max_epsilon, read.audited) == ("user", 8.0, True)
