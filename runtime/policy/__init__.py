"""Roles, limits and rules: what the policy file says, as frozen values."""

from runtime.policy.load import PolicyHolder, load_policy, parse_policy
from runtime.policy.model import Direction, Policy, PolicyError, Role, RoleLimits

__all__ = [
    "Direction",
    "Policy",
    "PolicyError",
    "PolicyHolder",
    "Role",
    "RoleLimits",
    "load_policy",
    "parse_policy",
]
