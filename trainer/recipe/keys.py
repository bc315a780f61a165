"""The keys of a recipe and their types, as the schema has them.

Invariant: nothing is written down twice; sections and keys come from the dataclasses.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from trainer.recipe.schema import Recipe

# Values that name files or folders; the only ones whose meaning depends on a place.
PATH_KEYS = frozenset(
    {
        "model.source",
        "tokenizer.file",
        "data.train",
        "data.validation",
        "data.cache",
        "privacy.ledger",
    }
)


@functools.cache
def section_types() -> Mapping[str, type[Any]]:
    """Return the class of every section of a recipe by its name, in order."""
    return MappingProxyType(typing.get_type_hints(Recipe))


@functools.cache
def key_types(section: str) -> Mapping[str, Any]:
    """Return the type of every key of a section by its name, in order."""
    kind = section_types()[section]
    hints = typing.get_type_hints(kind)
    return MappingProxyType({field.name: hints[field.name] for field in dataclasses.fields(kind)})
