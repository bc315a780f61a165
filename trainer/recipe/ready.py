"""The recipes that ship with Casemate, as files of the package `trainer.recipes`.

The first line of each is a comment: the sentence that `casemate train` lists it with.
"""

from __future__ import annotations

from importlib import resources

_PACKAGE = "trainer.recipes"
_ENDING = ".toml"


def ready_names() -> tuple[str, ...]:
    """Return the names of the ready recipes, sorted."""
    files = resources.files(_PACKAGE).iterdir()
    return tuple(sorted(f.name.removesuffix(_ENDING) for f in files if f.name.endswith(_ENDING)))


def ready_text(name: str) -> str:
    """Return the TOML of a ready recipe; `name` is one of `ready_names`."""
    return resources.files(_PACKAGE).joinpath(f"{name}{_ENDING}").read_text(encoding="utf-8")


def ready_summary(name: str) -> str:
    """Return the one sentence that says what a ready recipe is for."""
    return ready_text(name).partition("\n")[0].removeprefix("#").strip()
