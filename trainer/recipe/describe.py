"""A recipe as TOML: plain, or with the meaning and the limits of every value.

Invariant: what is written here reads back, by `parse_recipe`, to an equal recipe.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Any

from trainer.recipe.options import Meaning, meaning_of
from trainer.recipe.schema import Recipe

_WIDTH = 92


def to_toml(recipe: Recipe) -> str:
    """Return every value of a recipe as TOML, in the order of the schema."""
    return _written(recipe, explained=False)


def describe(recipe: Recipe) -> str:
    """Return every value of a recipe as TOML with its meaning, limits and default."""
    return _written(recipe, explained=True)


def all_values(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return every value of a recipe by section and key; JSON types."""
    return {
        section: {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        for section, values in dataclasses.asdict(recipe).items()
    }


def _written(recipe: Recipe, *, explained: bool) -> str:
    parts = []
    for section in dataclasses.fields(recipe):
        values = getattr(recipe, section.name)
        lines = []
        if explained:
            lines.append(f"# {(type(values).__doc__ or '').strip()}")
        lines.append(f"[{section.name}]")
        for field in dataclasses.fields(values):
            value = getattr(values, field.name)
            if explained:
                lines += _explanation(meaning_of(field), field.default, value)
            lines.append(f"{field.name} = {toml_value(value)}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def toml_value(value: Any) -> str:
    """Return one value as TOML.

    Raises:
        TypeError: a value of a type that recipes do not have.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        # TOML wants digits on both sides of a point; repr gives 1e-05 and 0.1, both TOML.
        return repr(value)
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(toml_value(each) for each in value)}]"
    raise TypeError(f"recipes have no values of type {type(value).__name__}")


def _explanation(meaning: Meaning, default: Any, value: Any) -> list[str]:
    text = meaning.text
    if meaning.choices:
        text += f" One of: {', '.join(meaning.choices)}."
    limits = [
        f"{word} {limit:,}" if isinstance(limit, int) else f"{word} {limit:g}"
        for word, limit in (("at least", meaning.minimum), ("at most", meaning.maximum))
        if limit is not None
    ]
    if limits:
        text += f" ({', '.join(limits)})"
    if value != default:
        text += f" Default: {toml_value(default)}."
    return textwrap.wrap(
        text, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )
