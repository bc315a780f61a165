"""Which models may run here: what a policy asks of the privacy claim in a bundle.

A rule names models and what their claim must be. Every rule that names a model must
hold for it; a model that no rule names needs no claim. Pure: a claim in, a reason out.

Fails closed: no claim, or one that could not be read, satisfies no rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from runtime.policy.names import any_matches
from security.bundle.attestations import PRIVACY_NAME
from security.bundle.claim import MIN_AUDIT_CANARIES, MIN_AUDIT_CONFIDENCE, PrivacyClaim


@dataclass(frozen=True, slots=True)
class PrivacyStanding:
    """What a verified bundle says of the privacy of its model.

    Attributes:
        claim: its one privacy claim; None if it makes none, or none that can be relied on.
        problem: why its claim cannot be relied on; "" where there is no problem.
    """

    claim: PrivacyClaim | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """What the claim of the models it names must be.

    Attributes:
        models: names, 'prefix*' or '*'.
        unit: whom the claim must protect: "record" or "user".
        max_epsilon: the largest epsilon, inclusive.
        max_delta: the largest delta, inclusive.
        audited: whether an audit must have found nothing against it.
        min_audit_ceiling: the epsilon that the audit must have been able to show.
    """

    models: tuple[str, ...]
    unit: str
    max_epsilon: float
    max_delta: float
    audited: bool = False
    min_audit_ceiling: float = 0.0

    def refusal(self, standing: PrivacyStanding) -> str:
        """Return why the rule refuses a model, or "" when it does not."""
        if standing.problem:
            return f"its privacy claim cannot be relied on: {standing.problem}"
        if standing.claim is None:
            return f"it carries no privacy claim ({PRIVACY_NAME})"
        return "; ".join(self._shortfalls(standing.claim))

    def _shortfalls(self, claim: PrivacyClaim) -> Iterator[str]:
        if claim.refuted:
            yield "its own audit shows more than it claims"
        # Neither unit implies the other at the same epsilon (docs/formats/policy.md).
        if claim.unit != self.unit:
            yield f"its claim protects a {claim.unit}, and a {self.unit} is asked for"
        # Written so that a value that compares with nothing is refused.
        if not claim.epsilon <= self.max_epsilon:
            yield f"its epsilon is {claim.epsilon:.10g}, above {self.max_epsilon:.10g}"
        if not claim.delta <= self.max_delta:
            yield f"its delta is {claim.delta:.10g}, above {self.max_delta:.10g}"
        if self.audited and not claim.audited:
            yield (
                f"its claim is not audited (with {MIN_AUDIT_CANARIES} canaries or more, at "
                f"{MIN_AUDIT_CONFIDENCE:.0%} confidence or more)"
            )
        elif claim.audit is not None and not claim.audit.ceiling >= self.min_audit_ceiling:
            yield (
                f"its audit could have shown epsilon {claim.audit.ceiling:.4g} at most, and "
                f"{self.min_audit_ceiling:.4g} is asked for"
            )


def refusal(rules: Iterable[AdmissionRule], model: str, standing: PrivacyStanding) -> str:
    """Return why `rules` refuse the model of that name, or "" when they admit it."""
    for rule in rules:
        if any_matches(rule.models, model) and (reason := rule.refusal(standing)):
            return reason
    return ""
