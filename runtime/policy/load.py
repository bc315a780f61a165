"""Reading policy.toml (docs/formats/policy.md).

Refuses unknown keys, wrong types, names that could not be matched, duplicate
rule names, and rules that cannot be enforced on a stream. Every message names
the table and the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from runtime.filters.rewrite import RuleError
from runtime.filters.rules import ACTIONS, DIRECTIONS, Rule, compile_rule
from runtime.policy.admission import AdmissionRule
from runtime.policy.model import Policy, PolicyError, Role, RoleLimits
from security.bundle.claim import MAX_DELTA, MAX_EPSILON, UNITS

FORMAT_VERSION = 1
MAX_POLICY_BYTES = 1 << 20
MAX_RULES = 1000
MAX_ADMISSION_RULES = 100
_ROLE_NAME = re.compile(r"[a-z0-9-]{1,32}")
_METHOD = re.compile(r"\*|[A-Za-z0-9_.]+/(\*|[A-Za-z0-9_]+\*?)")
_NAME_PATTERN = re.compile(r"[a-z0-9._-]{0,64}\*?")
_RULE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LIMIT_MAX = 1_000_000_000
_ROLE_KEYS = frozenset({"methods", "models"} | {f.name for f in dataclasses.fields(RoleLimits)})
_RULE_KEYS = frozenset(
    {
        "name",
        "patterns",
        "literals",
        "action",
        "direction",
        "roles",
        "models",
        "replacement",
        "max_match_chars",
    }
)
_ADMISSION_KEYS = frozenset(f.name for f in dataclasses.fields(AdmissionRule))


def _strings(
    table: dict[str, Any], key: str, where: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    value = table.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise PolicyError(f"{where}.{key} must be a list of strings")
    return tuple(value)


def _names(
    table: dict[str, Any], key: str, where: str, default: tuple[str, ...]
) -> tuple[str, ...]:
    names = _strings(table, key, where, default)
    for name in names:
        if not name or not _NAME_PATTERN.fullmatch(name):
            raise PolicyError(f"{where}.{key}: {name!r} is no name, 'prefix*' or '*'")
    return names


def _known(table: Any, keys: frozenset[str], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise PolicyError(f"{where} must be a table")
    unknown = sorted(set(table) - keys)
    if unknown:
        raise PolicyError(f"{where} has no key {unknown[0]!r}; known: {', '.join(sorted(keys))}")
    return table


def _role(name: str, table: Any) -> Role:
    where = f"roles.{name}"
    if not _ROLE_NAME.fullmatch(name):
        raise PolicyError(f"{where}: a role's name is 1 to 32 of a-z, 0-9 and '-'")
    fields = _known(table, _ROLE_KEYS, where)
    methods = _strings(fields, "methods", where, ())
    for method in methods:
        if not _METHOD.fullmatch(method):
            raise PolicyError(
                f"{where}.methods: {method!r} is no 'package.Service/Method', "
                "'package.Service/*' or '*'"
            )
    limits: dict[str, Any] = {}
    for entry in dataclasses.fields(RoleLimits):
        if entry.name not in fields:
            continue
        value = fields[entry.name]
        if entry.name == "logprobs":
            if not isinstance(value, bool):
                raise PolicyError(f"{where}.logprobs must be true or false")
        elif isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LIMIT_MAX:
            raise PolicyError(f"{where}.{entry.name} must be a whole number from 1")
        limits[entry.name] = value
    return Role(name, methods, _names(fields, "models", where, ()), RoleLimits(**limits))


def _rule(table: Any, index: int) -> Rule:
    where = f"rules[{index}]"
    fields = _known(table, _RULE_KEYS, where)
    name = fields.get("name")
    if not isinstance(name, str) or not _RULE_NAME.fullmatch(name):
        raise PolicyError(f"{where}.name must be 1 to 64 of a-z, 0-9, '.', '_' and '-'")
    where = f"rules.{name}"
    action = fields.get("action")
    if action not in ACTIONS:
        raise PolicyError(f"{where}.action must be one of {', '.join(ACTIONS)}")
    direction = fields.get("direction", "both")
    if direction not in DIRECTIONS:
        raise PolicyError(f"{where}.direction must be one of {', '.join(DIRECTIONS)}")
    replacement = fields.get("replacement", "[redacted]")
    if not isinstance(replacement, str) or len(replacement) > 256 or "\0" in replacement:
        raise PolicyError(f"{where}.replacement must be a string of at most 256 characters")
    limit = fields.get("max_match_chars")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise PolicyError(f"{where}.max_match_chars must be a whole number")
    try:
        return compile_rule(
            name=name,
            patterns=_strings(fields, "patterns", where, ()),
            literals=_strings(fields, "literals", where, ()),
            action=action,
            direction=direction,
            roles=_names(fields, "roles", where, ("*",)),
            models=_names(fields, "models", where, ("*",)),
            replacement=replacement,
            max_match_chars=limit,
        )
    except RuleError as error:
        raise PolicyError(f"{where}: {error}") from None


def _admission(table: Any, index: int) -> AdmissionRule:
    where = f"admission[{index}]"
    fields = _known(table, _ADMISSION_KEYS, where)
    unit = fields.get("unit")
    if unit not in UNITS:
        raise PolicyError(f"{where}.unit must be one of {', '.join(UNITS)}")
    audited = fields.get("audited", False)
    if not isinstance(audited, bool):
        raise PolicyError(f"{where}.audited must be true or false")
    models = _names(fields, "models", where, ("*",))
    if not models:
        raise PolicyError(f"{where}.models must name a model")
    ceiling = 0.0
    if "min_audit_ceiling" in fields:
        if not audited:
            raise PolicyError(f"{where}.min_audit_ceiling needs audited = true")
        ceiling = _bound(fields, "min_audit_ceiling", where, MAX_EPSILON)
    return AdmissionRule(
        models=models,
        unit=unit,
        max_epsilon=_bound(fields, "max_epsilon", where, MAX_EPSILON),
        max_delta=_bound(fields, "max_delta", where, MAX_DELTA),
        audited=audited,
        min_audit_ceiling=ceiling,
    )


def _bound(table: dict[str, Any], key: str, where: str, highest: float) -> float:
    """Return a required number in (0, highest]; TOML's nan and inf are none."""
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= highest:
        raise PolicyError(f"{where}.{key} must be a number above 0, at most {highest:g}")
    return float(value)


def parse_policy(data: bytes) -> Policy:
    """Parse the bytes of policy.toml.

    Raises:
        PolicyError: it names the table and key at fault.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"the policy is over {MAX_POLICY_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"the policy is not valid TOML: {error}") from None
    _known(document, frozenset({"version", "roles", "rules", "admission"}), "the policy")
    if document.get("version") != FORMAT_VERSION:
        raise PolicyError(f"version must be {FORMAT_VERSION}")
    roles = document.get("roles", {})
    rules = document.get("rules", [])
    if not isinstance(roles, dict) or not isinstance(rules, list):
        raise PolicyError("roles must be tables [roles.NAME], rules an array [[rules]]")
    if len(rules) > MAX_RULES:
        raise PolicyError(f"more than {MAX_RULES} rules")
    admission = document.get("admission", [])
    if not isinstance(admission, list):
        raise PolicyError("admission must be an array [[admission]]")
    if len(admission) > MAX_ADMISSION_RULES:
        raise PolicyError(f"more than {MAX_ADMISSION_RULES} admission rules")
    compiled = tuple(_rule(table, index) for index, table in enumerate(rules))
    names = [rule.name for rule in compiled]
    for name, count in Counter(names).items():
        if count > 1:
            raise PolicyError(f"two rules are called {name!r}")
    policy = Policy(
        digest=hashlib.sha256(data).hexdigest(),
        roles={name: _role(name, table) for name, table in roles.items()},
        rules=compiled,
        admission=tuple(_admission(table, index) for index, table in enumerate(admission)),
    )
    policy.prepare()
    return policy


def load_policy(path: Path) -> Policy:
    """Read policy.toml at `path`; raise PolicyError when it cannot be enforced."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"cannot read {path}: {error.strerror}") from None
    try:
        return parse_policy(data)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None


class PolicyHolder:
    """The policy in force, replaced as a whole.

    A call takes `current` once and keeps it to its end, so that a reload never
    mixes two policies in one call. Invariant: `current` always loaded cleanly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.current = load_policy(path)

    def reload(self) -> Policy:
        """Read the file again; on PolicyError the policy in force stays."""
        self.current = load_policy(self._path)
        return self.current
