"""The parts of a report that say what a run was made from: recipe, data, environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from casemate.pages import numbers
from casemate.pages.markup import Child, Markup, element, table
from casemate.pages.page import part
from trainer.recipe.options import meaning_of
from trainer.recipe.schema import Recipe
from trainer.reporting.run import RunRecord


def recipe(run: RunRecord) -> Markup | None:
    """Return every value of the recipe; those that differ from the defaults stand out."""
    if not run.plan.recipe:
        return None
    known = {one.name: one.default_factory for one in dataclasses.fields(Recipe)}
    cards = []
    for name, values in run.plan.recipe.items():
        make = known.get(name, dataclasses.MISSING)
        section = make() if callable(make) else None
        cards.append(_section(name, values, section))
    said = element("p", "Bold values with a dot differ from the defaults.", class_="soft")
    body = element("div", element("div", *cards, class_="sections"), class_="card")
    return part("Recipe", said, body)


def _section(name: str, values: Mapping[str, Any], defaults: Any) -> Markup:
    fields = {one.name: one for one in dataclasses.fields(defaults)} if defaults is not None else {}
    rows = []
    for key, value in values.items():
        meaning = meaning_of(fields[key]).text if key in fields else None
        changed = key in fields and _shown(getattr(defaults, key)) != _shown(value)
        cells = (element("th", key, scope="row", title=meaning), element("td", _shown(value)))
        rows.append(element("tr", *cells, class_="changed" if changed else None))
    return element(
        "div",
        element("h3", name),
        element("table", element("tbody", *rows)),
        class_="section",
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(one) for one in value) if value else "–"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "–"


def data(run: RunRecord) -> Markup | None:
    """Return the files that were learned from, with their digests."""
    if not run.plan.sources:
        return None
    rows: list[list[Child]] = []
    for source in run.plan.sources:
        length = source.get("bytes")
        rows.append(
            [
                element("bdi", str(source.get("name", ""))),
                str(source.get("role", "")),
                numbers.size(float(length)) if isinstance(length, int | float) else "",
                element("code", str(source.get("sha256", "")), class_="digest"),
            ]
        )
    body = table(["file", "role", "size", "SHA-256"], rows)
    return part("Data", element("div", body, class_="card"))


def environment(run: RunRecord) -> Markup | None:
    """Return where the run was made and with what."""
    if not run.plan.environment:
        return None
    rows = (
        element("tr", element("th", name, scope="row"), element("td", str(value)))
        for name, value in run.plan.environment.items()
    )
    body = element("table", element("tbody", *rows))
    return part("Environment", element("div", body, class_="card section"))


def footer(run: RunRecord) -> Markup:
    """Return the recipe's digest: what names this run beyond doubt."""
    digest = run.plan.recipe_digest
    said: list[Child] = ["Made by Casemate from the run's own record; this file needs no network."]
    if digest:
        said += [element("br"), "Recipe digest ", element("code", digest, class_="digest")]
    return element("footer", *said)
