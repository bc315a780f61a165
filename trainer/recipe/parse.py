"""Recipes from TOML files and `section.key=value` words into frozen, checked values.

What it refuses: a key that no section has (with the nearest one that exists), a value of
another type (with the expected type and an example), TOML that does not parse (with the
line). Invariants: paths in a recipe file are relative to the file, paths in an override
are relative to the current folder, and the recipe that comes out holds absolute paths
only; nothing here looks whether a path exists, and nothing heavy is imported.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import RecipeError
from trainer.recipe.keys import PATH_KEYS, key_types, section_types
from trainer.recipe.mistakes import at, line_of, place_of, unknown_key, unknown_section
from trainer.recipe.ready import ready_names, ready_text
from trainer.recipe.schema import Recipe

# A recipe is written by hand; a larger file is something else.
MAX_RECIPE_BYTES = 1 << 20
# Of a wrong value an error shows no more than this.
_SHOWN_CHARACTERS = 60

_EXPECTED = {
    int: "a whole number such as 100",
    float: "a number such as 0.1 or 3e-4",
    bool: "true or false",
    str: 'a text such as "value"',
    tuple[str, ...]: 'a list of texts such as ["one", "two"]',
    tuple[int, ...]: "a list of whole numbers such as [3, 4, 5]",
}


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe and where it came from.

    Attributes:
        recipe: the checked values; paths are absolute.
        name: the name of a ready recipe, or the file's name without its ending.
        text: the TOML as it was read, before overrides.
        overrides: the `section.key=value` words that were applied, in order.
    """

    recipe: Recipe
    name: str
    text: str
    overrides: tuple[str, ...] = ()


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe file or a ready recipe, and apply overrides to it.

    Args:
        source: the path of a TOML file, or the name of a ready recipe. A word that ends in
            .toml or holds a slash is a path; so is any other that names a file here.
        overrides: words `section.key=value`; lists are separated by commas, or TOML lists.

    Raises:
        RecipeError: naming the file, the line where one is known, and what to do.
    """
    text, name, folder, where = _read(source)
    recipe = parse_recipe(text, where=where, folder=folder, overrides=overrides)
    return LoadedRecipe(recipe, name, text, tuple(overrides))


def parse_recipe(text: str, *, where: str, folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from its TOML text.

    Args:
        text: the TOML.
        where: what errors call it, such as the file's path.
        folder: what relative paths in the text are relative to.
        overrides: as for `load_recipe`.

    Raises:
        RecipeError: as for `load_recipe`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is no TOML: {error}") from error
    return recipe_of(document, where=where, folder=folder, overrides=overrides, text=text)


def recipe_of(
    document: Mapping[str, Any],
    *,
    where: str,
    folder: Path,
    overrides: Sequence[str] = (),
    text: str = "",
) -> Recipe:
    """Build a recipe from values by section and key, as TOML or JSON gives them.

    Args:
        document: the values; what is missing has its default.
        where: what errors call it.
        folder: what relative paths in it are relative to.
        overrides: as for `load_recipe`.
        text: the TOML it was read from, to find lines in.

    Raises:
        RecipeError: as for `load_recipe`.
    """
    values = _from_document(document, text, where, folder)
    for word in overrides:
        section, key, value = _from_word(word)
        values.setdefault(section, {})[key] = value
    try:
        return Recipe(**{name: section_types()[name](**keys) for name, keys in values.items()})
    except RecipeError as error:
        place = place_of(str(error), text, where, overrides)
        raise RecipeError(f"{place}: {error}") from error


def _read(source: str | Path) -> tuple[str, str, Path, str]:
    """Return the text, the name, the folder of relative paths, and the name for errors."""
    word = str(source)
    path = Path(source).expanduser()
    is_path = isinstance(source, Path) or word.endswith(".toml") or "/" in word
    if not is_path and word in ready_names():
        return ready_text(word), word, Path.cwd(), f"the ready recipe {word}"
    if path.is_dir():
        raise RecipeError(f"{word} is a folder; a recipe is a .toml file or a ready name")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_RECIPE_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(_no_recipe(word, is_path)) from None
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {word}: {error.strerror}") from error
    if len(raw) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{word} is larger than {MAX_RECIPE_BYTES:,} bytes: no recipe")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{word}: line {line} is not UTF-8; a recipe is a text file") from error
    return text, path.stem, path.absolute().parent, word


def _no_recipe(word: str, is_path: bool) -> str:
    if is_path:
        return f"there is no recipe file {word}"
    near = difflib.get_close_matches(word, ready_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"{word!r} is neither a file nor a ready recipe{hint} "
        "(`casemate train` lists the ready recipes)"
    )


def _from_document(
    document: Mapping[str, Any], text: str, where: str, folder: Path
) -> dict[str, dict[str, Any]]:
    """Return the values of a TOML document by section and key, of the right types."""
    values: dict[str, dict[str, Any]] = {}
    for section, table in document.items():
        line = line_of(text, section, None)
        if section not in section_types():
            raise RecipeError(f"{at(where, line)}: {unknown_section(section, table)}")
        if not isinstance(table, dict):
            raise RecipeError(f"{at(where, line)}: {section} is a section; write [{section}]")
        values[section] = {}
        for key, value in table.items():
            place = at(where, line_of(text, section, key))
            if key not in key_types(section):
                raise RecipeError(f"{place}: {unknown_key(section, key)}")
            typed = _typed(f"{section}.{key}", value, key_types(section)[key], place)
            values[section][key] = _located(f"{section}.{key}", typed, folder)
    return values


def _from_word(word: str) -> tuple[str, str, Any]:
    """Return section, key and value of one override."""
    if any(0xD800 <= ord(char) <= 0xDFFF for char in word):
        raise RecipeError(f"override {word!r} is not UTF-8")
    name, equals, raw = word.partition("=")
    name = name.strip()
    place = f"override {name or word!r}"
    if not equals:
        raise RecipeError(f"{word!r} is no override; write section.key=value, as in run.steps=500")
    section, _, key = name.partition(".")
    if section not in section_types():
        raise RecipeError(f"{place}: {unknown_section(name, None)}")
    if key not in key_types(section):
        raise RecipeError(f"{place}: {unknown_key(section, key)}")
    kind = key_types(section)[key]
    value = _typed(name, _plain(raw.strip(), kind), kind, place)
    return section, key, _located(name, value, Path.cwd())


def _plain(raw: str, kind: Any) -> Any:
    """Return what a word on the command line means where `kind` is expected.

    Texts need no quotes there; what does not parse comes back as the text it is, so that
    the check of types names it.
    """
    if kind is str or typing.get_origin(kind) is tuple:
        quoted = raw[:1] in ("'", '"') or (kind is not str and raw.startswith("["))
        if not quoted:
            if kind is str:
                return raw
            parts = [part.strip() for part in raw.split(",") if part.strip()]
            return [_plain(part, typing.get_args(kind)[0]) for part in parts]
    try:
        value = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    return value["value"] if len(value) == 1 else raw


def _typed(name: str, value: Any, kind: Any, place: str) -> Any:
    """Return a value as the type its key has, or refuse it."""
    if typing.get_origin(kind) is tuple:
        single = typing.get_args(kind)[0]
        # One text where a list is expected means the list of that one.
        several = [value] if type(value) is single else value
        if isinstance(several, list) and all(type(each) is single for each in several):
            return tuple(several)
    elif type(value) is kind:
        return value
    elif kind is float and type(value) is int:
        return float(value)
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "…"
    raise RecipeError(f"{place}: {name} is {shown}; it must be {_EXPECTED[kind]}")


def _located(name: str, value: Any, folder: Path) -> Any:
    """Return a value whose paths, if it has any, are absolute; empty stays empty."""
    if name not in PATH_KEYS:
        return value
    if isinstance(value, tuple):
        return tuple(_located(name, each, folder) for each in value)
    return str(folder / Path(value).expanduser()) if value else value
