"""What a policy says: roles with methods, models and limits, and text rules.

Everything is frozen and default deny: a role that is not named, a method no line
of its role allows and a model no line names are refused. The text rules are
compiled when the policy is read, so that a policy that loads can be enforced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from runtime.filters.rules import Rule, RuleSet
from security.errors import CasemateError

Direction = Literal["in", "out"]


class PolicyError(CasemateError):
    """policy.toml is missing, malformed or cannot be enforced."""


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` ("*", "prefix*" or an exact name) covers `name`."""
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return pattern == name


def any_matches(patterns: tuple[str, ...], name: str) -> bool:
    """Whether one of `patterns` covers `name`."""
    return any(matches(pattern, name) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class RoleLimits:
    """What one principal of a role may take."""

    requests_per_minute: int = 600
    tokens_per_minute: int = 200_000
    max_concurrent: int = 16
    max_tokens: int = 2048
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """A role: the methods ("package.Service/Method") and models it may use."""

    name: str
    methods: tuple[str, ...]
    models: tuple[str, ...]
    limits: RoleLimits

    def allows_method(self, method: str) -> bool:
        """Whether a line of the role covers "package.Service/Method"."""
        return any_matches(self.methods, method)

    def allows_model(self, model: str) -> bool:
        """Whether a line of the role covers the model's name."""
        return any_matches(self.models, model)


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of the policy file.

    Attributes:
        digest: lower-case hex SHA-256 of the file's bytes.
    """

    digest: str
    roles: Mapping[str, Role]
    rules: tuple[Rule, ...]
    _sets: dict[tuple[str, str, str], RuleSet | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    def rule_set(self, role: str, model: str, direction: Direction) -> RuleSet | None:
        """Return the rules for texts of `role` and `model` that go in `direction`, if any.

        Model names come from the served catalogue, so the cache stays small.
        """
        key = (role, model, direction)
        if key not in self._sets:
            chosen = [
                rule
                for rule in self.rules
                if rule.direction in (direction, "both")
                and any_matches(rule.roles, role)
                and any_matches(rule.models, model)
            ]
            self._sets[key] = RuleSet(chosen) if chosen else None
        return self._sets[key]
