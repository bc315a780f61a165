"""What is said about a mistake in a recipe: the line it is in, and what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from trainer.recipe.keys import key_types, section_types


def place_of(message: str, text: str, where: str, overrides: Sequence[str]) -> str:
    """Return where the value that a message begins with was given."""
    named = re.match(r"(\w+)\.(\w+) is ", message)
    if not named:
        return where
    name = f"{named[1]}.{named[2]}"
    if any(word.partition("=")[0].strip() == name for word in overrides):
        return f"override {name!r}"
    return at(where, line_of(text, named[1], named[2]))


def unknown_section(name: str, value: Any) -> str:
    """Say that there is no such section, and what may have been meant."""
    sections = section_types()
    everything = [f"{section}.{key}" for section in sections for key in key_types(section)]
    last = name.rpartition(".")[2]
    owners = [each for each in everything if each.endswith(f".{last}")]
    if owners and not isinstance(value, dict):
        return f"{name!r} is no key; did you mean {' or '.join(owners)}?"
    near = difflib.get_close_matches(name, everything if "." in name else sections, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sections)}"
    return f"there is no section {name.partition('.')[0]!r}; {hint}"


def unknown_key(section: str, key: str) -> str:
    """Say that a section has no such key, and what may have been meant."""
    keys = list(key_types(section))
    if not key:
        return f"{section} is a section; it has {', '.join(keys)}"
    near = difflib.get_close_matches(key, keys, n=1)
    elsewhere = [name for name in section_types() if key in key_types(name)]
    if near:
        hint = f"did you mean {section}.{near[0]}?"
    elif elsewhere:
        hint = f"did you mean {' or '.join(f'{name}.{key}' for name in elsewhere)}?"
    else:
        hint = f"it has {', '.join(keys)}"
    return f"there is no {section}.{key}; {hint}"


def at(where: str, line: int | None) -> str:
    """Return a place for people; a line that is not known is left out."""
    return where if line is None else f"{where}, line {line}"


def line_of(text: str, section: str, key: str | None) -> int | None:
    """Return the line of a section or of a key, where it is written in the plain way."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        heading = re.match(r"\s*\[\s*([\w.\-\"']+)\s*\]", line)
        if heading:
            current = heading[1].strip("\"'")
            if key is None and current.partition(".")[0] == section:
                return number
            continue
        assigned = re.match(r"\s*([\w.\-]+)\s*=", line)
        if not assigned:
            continue
        full = f"{current}.{assigned[1]}".strip(".")
        if full == (section if key is None else f"{section}.{key}"):
            return number
        if key is None and full.startswith(f"{section}.") and not current:
            return number
    return None
