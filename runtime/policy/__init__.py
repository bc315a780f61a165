"""Roles, limits, rules and admission: what the policy file says, as frozen values."""

from runtime.policy.admission import AdmissionRule, PrivacyStanding
from runtime.policy.load import PolicyHolder, load_policy, parse_policy
from runtime.policy.model import Direction, Policy, PolicyError, Role, RoleLimits

__all__ = [
    "AdmissionRule",
    "Direction",
    "Policy",
    "PolicyError",
    "PolicyHolder",
    "PrivacyStanding",
    "Role",
    "RoleLimits",
    "load_policy",
    "parse_policy",
]
