"""The end of a run for a person: what was reached, where it lies, what to do next."""

from __future__ import annotations

from typing import Any

import click

# Figures of a summary in the order they are shown, with how they are written.
_FIGURES = (
    ("steps", "{:,}"),
    ("seconds", "{:,.1f}"),
    ("tokens_per_second", "{:,.0f}"),
    ("loss", "{:.4f}"),
    ("validation_loss", "{:.4f}"),
)
_REASONS = {
    "early": "validation did not get better; the best checkpoint was kept",
    "time": "the time was up (run.max_minutes)",
}


def render_summary(data: dict[str, Any]) -> None:
    """Print a run's summary; keys that are missing are left out."""
    if not data.get("finished", True):
        click.echo(f"stopped after step {data['steps']:,}; the same command goes on from there")
        return
    shown = [
        (key.replace("_", " "), form.format(data[key]))
        for key, form in _FIGURES
        if isinstance(data.get(key), int | float)
    ]
    # What the exported checkpoint was measured with, over the whole validation set.
    metrics = data.get("evaluation") or data.get("metrics") or {}
    shown += [
        (name.replace("_", " "), figure(value)) for name, value in metrics.items() if name != "loss"
    ]
    reason = _REASONS.get(str(data.get("reason")))
    if reason is not None:
        shown.append(("ended", reason))
    shown += [(key, str(data[key])) for key in ("checkpoint", "report") if data.get(key)]
    shown += _privacy(data.get("privacy"))
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        click.echo(f"{key:<{width}}  {value}")
    if data.get("checkpoint"):
        click.echo(f"Sign it with: casemate sign {data['checkpoint']}")


def _privacy(claimed: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what a private run may claim, and where it is written down."""
    if not claimed:
        return []
    unit, units = claimed["unit"], claimed["units"]
    half = f", half of 1/{units:,}" if claimed["delta"] == 0.5 / units else ""
    ledger = f"{claimed['ledger']}, data {claimed['dataset']!r}: "
    if claimed["budget"] is None:
        ledger += "no budget was set"
    else:
        left = max(0.0, claimed["budget"] - claimed["released"])
        ledger += (
            f"{claimed['released']:.3f} of epsilon {claimed['budget']:g} is released, {left:.3f} "
            f"remains (at its delta, {claimed['released_delta']:g})"
        )
    return [
        (
            "privacy",
            f"epsilon {claimed['epsilon']:.4g} at delta {claimed['delta']:.4g}{half}, for each of "
            f"{units:,} {unit}s, earlier releases included",
        ),
        ("claim", f"{claimed['report']}; for people {claimed['page']}"),
        ("ledger", ledger),
    ]


def figure(value: Any) -> str:
    """Return a metric for people: four digits after the point, words as they are."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
