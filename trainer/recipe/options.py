"""How one value of a recipe states its meaning and its limits.

`option(...)` is a dataclass field whose metadata holds the sentence that
`--print-recipe` shows and the limits that `check_options` enforces at construction.
Invariant: a section that exists has passed its checks.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from trainer.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a value means and what it may be.

    Attributes:
        text: one sentence for people.
        choices: the allowed values of a word, or of each word of a list.
        minimum: the smallest allowed number, inclusive.
        maximum: the largest allowed number, inclusive.
    """

    text: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None


def option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """Return a dataclass field with a default, a meaning and limits."""
    meaning = Meaning(text, choices, minimum, maximum)
    return dataclasses.field(default=default, metadata={"meaning": meaning})


def meaning_of(field: dataclasses.Field[Any]) -> Meaning:
    """Return what `option` stored in a field."""
    meaning = field.metadata["meaning"]
    if not isinstance(meaning, Meaning):
        raise TypeError(f"{field.name} was not made by option()")
    return meaning


def check_options(section: Any) -> None:
    """Check every field of a section against its limits.

    Raises:
        RecipeError: naming the section, the key, the value and the limit.
    """
    name = type(section).SECTION
    for field in dataclasses.fields(section):
        meaning = meaning_of(field)
        value = getattr(section, field.name)
        for single in value if isinstance(value, tuple) else (value,):
            _check(f"{name}.{field.name}", single, meaning)


def _check(key: str, value: Any, meaning: Meaning) -> None:
    if meaning.choices and value not in meaning.choices:
        raise RecipeError(f"{key} is {value!r}; it may be {', '.join(meaning.choices)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if math.isnan(value):
        raise RecipeError(f"{key} is not a number")
    if meaning.minimum is not None and value < meaning.minimum:
        raise RecipeError(f"{key} is {value:g}; the smallest allowed value is {meaning.minimum:g}")
    if meaning.maximum is not None and value > meaning.maximum:
        raise RecipeError(f"{key} is {value:g}; the largest allowed value is {meaning.maximum:g}")
