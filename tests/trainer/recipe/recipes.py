"""Any valid recipe, for property tests: one value of each section is free."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from trainer.errors import RecipeError
from trainer.recipe.keys import key_types, section_types
from trainer.recipe.options import Meaning, meaning_of
from trainer.recipe.schema import Recipe

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Draw values for some keys and keep those that make a valid recipe."""
    recipe = Recipe()
    keys = [(name, key) for name in section_types() for key in key_types(name)]
    for section, key in draw(st.lists(st.sampled_from(keys), max_size=12, unique=True)):
        old = getattr(recipe, section)
        field = next(each for each in dataclasses.fields(old) if each.name == key)
        value = draw(_values(key_types(section)[key], meaning_of(field)))
        try:
            changed = dataclasses.replace(old, **{key: value})
            recipe = dataclasses.replace(recipe, **{section: changed})
        except RecipeError:
            continue
    return recipe


def _values(kind: Any, meaning: Meaning) -> st.SearchStrategy[Any]:
    if meaning.choices:
        single: st.SearchStrategy[Any] = st.sampled_from(meaning.choices)
    elif kind is bool:
        single = st.booleans()
    elif kind is float:
        single = st.floats(meaning.minimum, meaning.maximum, allow_nan=False)
    elif kind in (int, tuple[int, ...]):
        low = None if meaning.minimum is None else int(meaning.minimum)
        high = 2**40 if meaning.maximum is None else int(meaning.maximum)
        single = st.integers(low, high)
    else:
        single = _TEXTS
    if kind in (tuple[int, ...], tuple[str, ...]):
        return st.lists(single, max_size=3).map(tuple)
    return single
