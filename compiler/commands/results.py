"""What commands of the compiler say of a form: how good, how fast, how large, and what to mind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from casemate.cli.quality import quality_text

if TYPE_CHECKING:
    from compiler.bundling.forms import Form
    from compiler.report.record import Compilation

_MIB = 1 << 20


def search_data(form: Form) -> dict[str, Any] | None:
    """Return what a search found of its choice, for --json; None without a search."""
    from compiler.report.picture import gain_of

    record = form.record
    if record is None:
        return None
    chosen, reference = record.entry(record.chosen), record.entry(record.reference)
    ratios = [chosen.rates[name].ratio for name in record.load_rates]
    return {
        "for": record.load,
        "times_reference": round(gain_of(record, chosen), 3),
        "low": round(min(one.low for one in ratios), 3),
        "high": round(max(one.high for one in ratios), 3),
        "rounds": min(one.count for one in ratios),
        "per_second": {name: round(one.rate.median, 2) for name, one in chosen.rates.items()},
        "predicted": chosen.predicted,
        "size_bytes": chosen.size_bytes,
        "reference_size_bytes": reference.size_bytes or record.source.size_bytes,
        "peak_mib": chosen.peak_mib,
        "as_given": record.chosen == record.reference,
    }


def search_text(found: dict[str, Any]) -> str:
    """Return what `search_data` returned, as a line for a person."""
    how = "predicted" if found["predicted"] else "measured"
    rounds = "1 round" if found["rounds"] == 1 else f"{found['rounds']} rounds"
    spread = f", {found['low']:.2f} to {found['high']:.2f}" if found["rounds"] > 1 else ""
    size, before = found["size_bytes"], found["reference_size_bytes"]
    return (
        f"{found['times_reference']:.2f} times the given model's speed {load_text(found['for'])} "
        f"({how}, {rounds}{spread}); {size / _MIB:,.1f} MiB, given {before / _MIB:,.1f} MiB"
    )


def load_text(load: str) -> str:
    """Return a load in words, such as "for 16 clients"."""
    if load == "prefill":
        return "at reading prompts"
    # A size is chosen by size; its speed is told for one client.
    count = "1" if load == "size" else load
    return f"for {count} client{'' if count == '1' else 's'}"


def search_notes(form: Form) -> tuple[str, ...]:
    """Return what a user should know of a search: predictions, what was cut short, advice."""
    record = form.record
    if record is None:
        return ()
    said = []
    if record.predicted:
        said.append(
            f"speeds are predicted for {record.target.name}, not measured: they rank forms, and "
            "times may be off by a factor of two"
        )
    if record.chosen == record.reference:
        said.append(_nothing_better(record))
    elif not record.predicted and _rounds(record) == 1:
        said.append(
            "the choice was timed in one round only, where small differences mean little; a larger "
            "--budget gives more"
        )
    if any(note.endswith("for time") for note in record.notes):
        said.append("the budget ended the search early: a larger --budget tries more")
    return (*said, *record.notes)


def _rounds(record: Compilation) -> int:
    rates = record.entry(record.chosen).rates
    return min(rates[name].ratio.count for name in record.load_rates)


def _nothing_better(record: Compilation) -> str:
    """Tell why the model stays as it was given."""
    others = [
        one
        for one in record.candidates
        if one.candidate.digest != record.reference and one.candidate.family != "settings"
    ]
    judged = [one for one in others if one.quality is not None]
    broken = [one for one in judged if one.quality and record.promise.broken(one.quality)]
    slower = [one for one in judged if one not in broken and one.rates]
    parts = [f"{len(broken)} broke the promise"]
    # What was seen on a part of the texts is not beside what was seen on all.
    whole = [one for one in broken if not one.quick] or broken
    if whole:
        closest = min(
            whole, key=lambda one: record.promise.worst_excess(one.quality) if one.quality else 0.0
        )
        figures = quality_text(None if closest.quality is None else closest.quality.to_dict())
        parts[0] += f" (closest: {closest.candidate.label}, {figures})"
    parts.append(f"{len(slower)} were no faster")
    parts.append(f"{len(others) - len(broken) - len(slower)} were not measured to the end")
    return (
        f"nothing better was found, and the model stays as it was given: of {len(others)} "
        f"candidates {', '.join(parts)}. Promise less, or give a larger --budget"
    )
