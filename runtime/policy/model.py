"""What a policy says: roles with methods, models and limits, text rules, admission.

Everything is frozen and default deny: a role that is not named, a method no line
of its role allows and a model no line names are refused. The text rules are
compiled when the policy is read, so that a policy that loads can be enforced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from runtime.filters.rewrite import RuleError
from runtime.filters.rules import Rule, RuleSet
from runtime.policy.admission import AdmissionRule, PrivacyStanding, refusal
from runtime.policy.names import any_matches
from security.errors import CasemateError

Direction = Literal["in", "out"]
DIRECTIONS: tuple[Direction, ...] = ("in", "out")
# Over all sets that differ: each holds its rules compiled.
MAX_SELECTED_RULES = 20_000
_NO_NAME = "\0"


class PolicyError(CasemateError):
    """policy.toml is missing, malformed or cannot be enforced."""


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

    Every set of rules that a role of the policy can meet is compiled by `prepare`, so
    nothing a client sends adds to what is kept: a model's name only chooses among them.

    Attributes:
        digest: lower-case hex SHA-256 of the file's bytes.
        roles: by name.
        rules: for texts.
        admission: for models; none asks for nothing.
    """

    digest: str
    roles: Mapping[str, Role]
    rules: tuple[Rule, ...]
    admission: tuple[AdmissionRule, ...] = ()
    _sets: dict[tuple[int, ...], RuleSet] = field(default_factory=dict, repr=False, compare=False)

    def prepare(self) -> None:
        """Compile the rules for every role, direction and kind of model name.

        Raises:
            PolicyError: RE2 cannot hold them, or there are too many sets of them.
        """
        selections = {
            selection
            for role in self.roles
            for name in self._model_names()
            for direction in DIRECTIONS
            if (selection := self._selection(role, name, direction))
        }
        if sum(map(len, selections)) > MAX_SELECTED_RULES:
            raise PolicyError(
                f"the rules' models make sets of more than {MAX_SELECTED_RULES} rules in all; "
                "name fewer different models"
            )
        try:
            for selection in sorted(selections):
                self._sets[selection] = self._compiled(selection)
        except RuleError as error:
            raise PolicyError(str(error)) from None

    def refusal(self, model: str, standing: PrivacyStanding) -> str:
        """Return why a model may not run here, or "" when it may."""
        return refusal(self.admission, model, standing)

    def rule_set(self, role: str, model: str, direction: Direction) -> RuleSet | None:
        """Return the rules for texts of `role` and `model` that go in `direction`, if any."""
        selection = self._selection(role, model, direction)
        if not selection:
            return None
        # Only a role the policy does not name misses; what it gets is not kept.
        return self._sets.get(selection) or self._compiled(selection)

    def _selection(self, role: str, model: str, direction: Direction) -> tuple[int, ...]:
        return tuple(
            index
            for index, rule in enumerate(self.rules)
            if rule.direction in (direction, "both")
            and any_matches(rule.roles, role)
            and any_matches(rule.models, model)
        )

    def _compiled(self, selection: tuple[int, ...]) -> RuleSet:
        return RuleSet([self.rules[index] for index in selection])

    def _model_names(self) -> set[str]:
        """Return names that between them meet every selection some name could meet.

        A name is met by the exact pattern that equals it, and by those prefixes that
        are prefixes of the longest one it begins with. So it is enough to try each
        exact name, and each prefix with an end that no pattern has.
        """
        patterns = {pattern for rule in self.rules for pattern in rule.models} | {"*"}
        return {p[:-1] + _NO_NAME if p.endswith("*") else p for p in patterns}
