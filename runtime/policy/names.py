"""Patterns of names in a policy: an exact name, 'prefix*', or '*'."""

from __future__ import annotations


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` ("*", "prefix*" or an exact name) covers `name`."""
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    return pattern == name


def any_matches(patterns: tuple[str, ...], name: str) -> bool:
    """Whether one of `patterns` covers `name`."""
    return any(matches(pattern, name) for pattern in patterns)
