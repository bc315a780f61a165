"""A recipe written as TOML reads back as itself, and explains every value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.trainer.recipe.recipes import recipes
from trainer.recipe.describe import describe, to_toml, toml_value
from trainer.recipe.keys import PATH_KEYS
from trainer.recipe.options import meaning_of
from trainer.recipe.parse import parse_recipe
from trainer.recipe.schema import Recipe


def placed(recipe: Recipe) -> Recipe:
    """The recipe with its paths made absolute, as every loaded recipe has them."""
    for name in PATH_KEYS:
        section, _, key = name.partition(".")
        old = getattr(recipe, section)
        value = getattr(old, key)
        new = tuple(map(place, value)) if isinstance(value, tuple) else place(value)
        recipe = dataclasses.replace(recipe, **{section: dataclasses.replace(old, **{key: new})})
    return recipe


def place(path: str) -> str:
    return str(Path("/here") / path.replace("\0", "").lstrip("~")) if path else ""


@settings(deadline=None)
@given(recipes())
def test_what_is_written_reads_back_as_the_same_recipe(recipe: Recipe) -> None:
    recipe = placed(recipe)
    for text in (to_toml(recipe), describe(recipe)):
        assert parse_recipe(text, where="written", folder=Path("/elsewhere")) == recipe


def test_every_value_is_described_with_its_meaning_and_limits() -> None:
    text = " ".join(describe(Recipe()).replace("#", " ").split())
    for section in dataclasses.fields(Recipe()):
        values = getattr(Recipe(), section.name)
        assert f"[{section.name}]" in text
        for field in dataclasses.fields(values):
            assert f"{field.name} = {toml_value(getattr(values, field.name))}" in text
            assert meaning_of(field).text in text
    assert "(at least 0, at most 0.5)" in text
    assert "One of: auto, cpu, cuda." in text


def test_a_changed_value_says_its_default() -> None:
    recipe = parse_recipe("[run]\nsteps = 777\n", where="here", folder=Path())
    assert "(at least 1) Default: 1000.\nsteps = 777" in describe(recipe)
    assert "Default" not in describe(Recipe())


def test_strings_that_toml_escapes_read_back() -> None:
    for text in ('a "quoted" \\ text', "two\nlines\t\x00\x7f", "é 語 \U0001f600"):
        written = f"[data]\ntext_field = {toml_value(text)}\n"
        recipe = parse_recipe(written, where="here", folder=Path())
        assert recipe.data.text_field == text


def test_values_of_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="type dict"):
        toml_value({})
