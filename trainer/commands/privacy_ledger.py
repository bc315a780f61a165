"""The ledger of releases for a person: its budget, what was taken, what is left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import counted, table
from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.errors import PrivacyError
from trainer.privacy.ledger import Budget, Ledger, LedgerView, read_ledger
from trainer.privacy.ledger_names import unit_words

if TYPE_CHECKING:
    from trainer.privacy.ledger import Release

# Two epsilons of the same releases differ where their deltas do.
_TWO_FIGURES = (
    "Epsilon and delta go together: for the same releases a smaller delta gives a larger epsilon. "
    "A model's own claim has a delta of its own (privacy.json); --delta shows the ledger at that."
)
# What is shown of the last line's link; the whole of it is in the JSON.
_LINK_DIGITS = 16


def make_ledger(path: Path, budget: Budget) -> dict[str, Any]:
    """Make a ledger with a budget, and return what it holds.

    Raises:
        LedgerError: there is one already, or the folder cannot be written.
    """
    with Ledger.create(path, budget) as ledger:
        view = ledger.view()
    return _data(path, view, None)


def read(path: Path, delta: float | None) -> dict[str, Any]:
    """Verify a ledger and return what it holds, and what it comes to.

    Args:
        path: the ledger.
        delta: where epsilon is computed; None takes the budget's, or, without a budget,
            half of 1/units of each data set.

    Raises:
        LedgerError: it is missing, edited or damaged.
    """
    return _data(path, read_ledger(path), delta)


def _data(path: Path, view: LedgerView, delta: float | None) -> dict[str, Any]:
    budget = view.budget
    names = dict.fromkeys(release.dataset for release in view.releases)
    if budget is not None:
        names = {budget.dataset: None, **names}
    return {
        "ledger": str(path),
        "lines": view.head.lines,
        "link": view.head.link,
        "budget": None
        if budget is None
        else {
            "dataset": budget.dataset,
            "epsilon": budget.epsilon,
            "delta": budget.delta,
            "unit": budget.unit,
            "user_field": budget.user_field,
        },
        "datasets": [_spent(view, name, delta) for name in names],
        "releases": [_release(release) for release in view.releases],
    }


def _spent(view: LedgerView, dataset: str, delta: float | None) -> dict[str, Any]:
    """Return what all releases of one data set come to."""
    budget = view.budget
    owned = budget is not None and budget.dataset == dataset
    if delta is None and budget is not None and owned:
        delta = budget.delta
    unit, user_field = _unit(view, dataset)
    if budget is not None and owned:
        unit, user_field = budget.unit, budget.user_field
    try:
        events = view.events(dataset, unit=unit, user_field=user_field)
    except PrivacyError as error:
        return {
            "dataset": dataset,
            "unit": unit,
            "user_field": user_field,
            "delta": delta,
            "epsilon": None,
            "note": str(error),
        }
    if delta is None:
        delta = 0.5 / min((event.units for event in events), default=1)
    return {
        "dataset": dataset,
        "unit": unit,
        "user_field": user_field,
        "delta": delta,
        "epsilon": epsilon_pld(events, delta) if events else 0.0,
        "updates": sum(event.steps for event in events),
        "note": "",
    }


def _unit(view: LedgerView, dataset: str) -> tuple[str, str]:
    """Return whom releases of a data set protect: users only if all do, by one field."""
    units = {
        (release.unit, release.user_field)
        for release in view.releases
        if release.dataset == dataset
    }
    return units.pop() if len(units) == 1 else ("record", "")


def _release(release: Release) -> dict[str, Any]:
    return {
        "run": release.run_id,
        "dataset": release.dataset,
        "unit": release.unit,
        "user_field": release.user_field,
        "mechanism": release.mechanism.to_dict(),
        "planned": release.planned,
        "charged": release.charged,
        "replayed": release.replayed,
        "torn": release.torn,
        "tuning": release.tuning,
        "began": datetime.fromtimestamp(release.began_ms / 1000, UTC).isoformat(),
    }


def render_ledger(data: dict[str, Any]) -> None:
    """Print a ledger."""
    lines = counted(data["lines"], "line", "lines")
    click.echo(f"{data['ledger']}: {lines}, unbroken up to {data['link'][:_LINK_DIGITS]}")
    budget = data["budget"]
    if budget is None:
        click.echo("budget: none was set")
    else:
        click.echo(
            f"budget of {budget['dataset']}: epsilon {budget['epsilon']:g} at delta "
            f"{budget['delta']:.4g} for each {unit_words(budget['unit'], budget['user_field'])}"
        )
    for spent in data["datasets"]:
        if spent["epsilon"] is None:
            click.echo(f"{spent['dataset']}: {spent['note']}")
            continue
        updates = counted(spent["updates"], "update", "updates")
        click.echo(
            f"{spent['dataset']}: epsilon {spent['epsilon']:.3f} at delta {spent['delta']:.4g} "
            f"was released to this day, by {updates}{_left(budget, spent)}"
        )
    if any(spent["epsilon"] for spent in data["datasets"]):
        click.echo(_TWO_FIGURES)
    if data["releases"]:
        click.echo()
        heading = ["run", "data", "unit", "noise", "q", "updates", "replayed", "tuning", "began"]
        table(heading, _rows(data))


def _left(budget: dict[str, Any] | None, spent: dict[str, Any]) -> str:
    """Return what remains of the budget; nothing where the figure is at another delta."""
    owned = budget is not None and budget["dataset"] == spent["dataset"]
    if budget is None or not owned or budget["delta"] != spent["delta"]:
        return ""
    return f"; {max(0.0, budget['epsilon'] - spent['epsilon']):.3f} remains"


def _rows(data: dict[str, Any]) -> list[list[str]]:
    return [
        [
            each["run"],
            each["dataset"],
            unit_words(each["unit"], each["user_field"]),
            f"{each['mechanism']['noise_multiplier']:.4f}",
            f"{each['mechanism']['sampling_probability']:.4g}",
            f"{each['charged'] - each['tuning']:,} of {each['planned']:,}",
            f"{each['replayed']:,}",
            f"{each['tuning']:,}",
            each["began"],
        ]
        for each in data["releases"]
    ]
