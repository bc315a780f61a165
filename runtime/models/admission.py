"""May a verified bundle run here? Asked when it is installed, loaded, and used.

The bundle's statements are read once, after its signatures hold, when it is opened; the
policy in force is asked again each time, so that a reload takes effect on models that
are loaded already. An appliance without a rule asks for nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.models.errors import ModelNotAdmitted
from runtime.policy.admission import PrivacyStanding
from runtime.policy.model import Policy
from security.bundle.attestations import privacy_claim
from security.bundle.opening import VerifiedBundle
from security.errors import AttestationError

# Gives the policy in force at the moment; None where there is no policy at all.
PolicyInForce = Callable[[], Policy | None]


def no_policy() -> None:
    """There is no policy, and so no rule."""


def standing_of(bundle: VerifiedBundle) -> PrivacyStanding:
    """Return what a verified bundle says of the privacy of its model.

    A statement that cannot be relied on is no error here: only a rule makes it one.
    """
    try:
        return PrivacyStanding(claim=privacy_claim(bundle.files, bundle.manifest))
    except AttestationError as error:
        return PrivacyStanding(problem=str(error))


def require_admission(
    policy: Policy | None, name: str, version: str, standing: PrivacyStanding
) -> None:
    """Refuse a version that the policy does not admit.

    Raises:
        ModelNotAdmitted: its message has the reason.
    """
    reason = policy.refusal(name, standing) if policy is not None else ""
    if reason:
        raise ModelNotAdmitted(name, version, reason)
