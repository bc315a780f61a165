"""`compilation.html`: what was tried, what was chosen and why, in one file that opens offline.

Made of compilation.json alone. It begins with what was chosen, then the Pareto picture,
then every candidate with its figures and why it was left, the tensors that suffer most,
and the exact command. Speeds are shown with their spread; predicted ones say so everywhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from casemate.pages import numbers
from casemate.pages.markup import Child, Markup, element, table
from casemate.pages.page import page, part, tiles
from compiler.report.entry import Entry
from compiler.report.picture import gain_of, pareto_chart
from compiler.report.record import Compilation
from compiler.tune.candidate import Quality, Spread
from compiler.tune.choose import EQUAL_SPEED, PREFILL, SIZE, loss_of
from compiler.tune.promise import CLAUSES
from security.files import write_atomic

PAGE_NAME: Final = "compilation.html"
_MOST_WORST: Final = 20


def write_page(path: Path, record: Compilation) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    write_atomic(path, render_page(record).encode())


def render_page(record: Compilation) -> str:
    """Return the page as HTML."""
    parts: tuple[Child, ...] = (
        _header(record),
        _tiles(record),
        _notes(record),
        _picture(record),
        _front(record),
        _speeds(record),
        _left(record),
        _worst(record),
        _made_how(record),
        element(
            "footer",
            "This page is drawn from compilation.json. A bundle that casemate compile makes by a "
            "search carries such a record as a statement under its signatures.",
        ),
    )
    return page(f"{record.source.name} – compilation", [element("main", *parts)])


def _header(record: Compilation) -> Markup:
    words, kind = ("speeds predicted", "open") if record.predicted else ("measured", "good")
    target = record.target
    machine = f"this machine ({record.machine})" if target.name == "this" else target.name
    load = f"{record.load} client{'' if record.load == '1' else 's'}"
    load = record.load if record.load in (PREFILL, SIZE) else load
    facts = f"for {machine}, {target.level or target.arch} · {record.promise.name} · {load}"
    return element(
        "header",
        element("div", "Casemate compilation report", class_="brand"),
        element(
            "h1",
            element("bdi", record.source.name),
            element("span", words, class_=f"state {kind}"),
        ),
        element("p", facts, class_="facts"),
    )


def _tiles(record: Compilation) -> Markup:
    chosen = record.entry(record.chosen)
    reference = record.entry(record.reference)
    how = "predicted" if chosen.predicted else "measured"
    found: list[tuple[str, str, str]] = []
    names = sorted(
        chosen.rates, key=lambda name: (name not in record.load_rates, *_rate_order(name))
    )
    for name in names[:3]:
        rate = chosen.rates[name]
        remark = f"{_ratio(rate.ratio)} the reference's, {how}"
        found.append((rate_name(name), f"{numbers.figure(rate.rate.median)}/s", remark))
    if chosen.size_bytes is not None:
        before = numbers.size(reference.size_bytes or record.source.size_bytes)
        found.append(("File", numbers.size(chosen.size_bytes), f"reference: {before}"))
    if chosen.quality is not None:
        found += [(name, value, "") for name, value in quality_figures(chosen.quality)[:2]]
    said = element(
        "p",
        "Chosen: ",
        element("strong", element("bdi", chosen.candidate.label)),
        f". Promised: {_promise(record)}.",
    )
    return element("div", said, tiles(found), class_="above")


def _notes(record: Compilation) -> Markup | None:
    said = list(record.notes)
    if record.predicted:
        said.insert(
            0,
            f"Speeds are predicted for {record.target.name} from its instructions, cores and "
            "bandwidth, never measured there: they rank formats, and times may be off by a factor "
            "of two. Quality was measured here.",
        )
    if not said:
        return None
    return element("p", " ".join(f"{one.rstrip('.')}." for one in said), class_="card above")


def _picture(record: Compilation) -> Markup | None:
    chart = pareto_chart(record)
    return None if chart is None else part("Speed against quality", chart)


def _front(record: Compilation) -> Markup:
    said = element(
        "p",
        "No other candidate is both faster for this load and closer to the reference. Speeds "
        "are the median of rounds beside the reference, with the lowest and highest where there "
        "were several; those of one round are told apart only where they are far apart. Of the "
        f"candidates within the promise that are as good as equally fast (within "
        f"{EQUAL_SPEED:.0%}) the closest to the reference is chosen.",
    )
    entries = [record.entry(digest) for digest in record.front]
    rows = [_summary(record, entry) for entry in entries]
    heading = ("Candidate", "Size", "Speed", "Loss", "Promise")
    return part("The front", said, table(heading, rows, class_="numbers named"))


def _summary(record: Compilation, entry: Entry) -> tuple[Child, ...]:
    loss = loss_of(entry.quality)
    kept = entry.quality is not None and not record.promise.broken(entry.quality)
    label: Child = element("bdi", entry.candidate.label)
    if entry.candidate.digest == record.chosen:
        label = element("strong", label)
    return (
        label,
        "–" if entry.size_bytes is None else numbers.size(entry.size_bytes),
        f"{gain_of(record, entry):.2f}×" if entry.rates else "not timed",
        "–" if loss is None else f"{loss:.4f}",
        "kept" if kept else "broken",
    )


def _speeds(record: Compilation) -> Markup:
    timed = [one for one in record.candidates if one.rates]
    names = sorted({name for one in timed for name in one.rates}, key=_rate_order)
    rows = []
    for one in sorted(timed, key=lambda entry: -gain_of(record, entry)):
        cells: list[Child] = [element("bdi", one.candidate.label)]
        for name in names:
            rate = one.rates.get(name)
            if rate is None:
                cells.append("–")
                continue
            ratio = element("small", _ratio(rate.ratio))
            cells.append(element("div", numbers.figure(rate.rate.median), ratio))
        cells.append("–" if one.load_seconds is None else numbers.duration(one.load_seconds))
        cells.append("–" if one.peak_mib is None else f"{one.peak_mib:,.0f} MiB")
        rows.append(tuple(cells))
    how = "predicted" if record.predicted else "measured"
    heading = ("Candidate", *map(rate_name, names), "Load", "Peak memory")
    said = element(
        "p",
        f"Per second, {how}; below it, by the reference's of the same rounds: "
        "the median, and the lowest and highest.",
        class_="soft",
    )
    qualities = [one for one in record.candidates if one.quality is not None and one.rates]
    figures = [(element("bdi", one.candidate.label), *_figures(one.quality)) for one in qualities]
    kinds = ("Candidate", "KL mean", "KL 99%", "Perplexity ×", "Same first", "Accuracy", "Spearman")
    return part(
        "Every candidate that was timed",
        said,
        table(heading, rows, class_="numbers named"),
        element("div", table(kinds, figures, class_="numbers named"), class_="above"),
    )


def _figures(quality: Quality | None) -> tuple[str, ...]:
    if quality is None:
        return ("–",) * 6
    values = (
        quality.kl_mean,
        quality.kl_p99,
        quality.perplexity_ratio,
        quality.top1,
        quality.accuracy,
        quality.spearman,
    )
    return tuple("–" if one is None else f"{one:.4f}" for one in values)


def _left(record: Compilation) -> Markup | None:
    left = [one for one in record.candidates if one.dropped is not None]
    if not left:
        return None
    rows = [
        (
            element("bdi", one.candidate.label),
            "–" if one.size_bytes is None else numbers.size(one.size_bytes),
            element("bdi", one.dropped or ""),
        )
        for one in left
    ]
    return part("Not followed to the end", table(("Candidate", "Size", "Why"), rows))


def _worst(record: Compilation) -> Markup | None:
    if not record.worst:
        return None
    rows = [
        (
            element("bdi", one.tensor),
            one.format,
            f"{one.divergence:.4g}",
            numbers.size(one.saved_bytes),
        )
        for one in record.worst[:_MOST_WORST]
    ]
    said = element("p", "What it costs to narrow one tensor alone, worst first.", class_="soft")
    heading = ("Tensor", "Format", "KL divergence", "Saves")
    return part("The most sensitive tensors", said, table(heading, rows, class_="numbers"))


def _made_how(record: Compilation) -> Markup:
    target = record.target
    rows: list[tuple[Child, ...]] = [
        ("Source", element("code", record.source.sha256, class_="digest")),
        (
            "Target",
            f"{target.name}: {target.level or target.arch}, {target.cores} cores, "
            f"{numbers.size(target.memory_bytes)}, {target.bandwidth_gb_s:g} GB/s",
        ),
        ("Measured on", record.machine or "unknown"),
        ("Promise", _promise(record)),
        ("Judged on", _judged_on(record)),
        ("Search", _search(record)),
    ]
    versions = record.context.get("versions")
    if isinstance(versions, dict):
        shown = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        rows.append(("Tools", shown))
    command = element("pre", shlex.join(record.command)) if record.command else None
    return part("How it was made", table(("", ""), rows), element("div", command, class_="above"))


def _judged_on(record: Compilation) -> str:
    """Return how much of the texts the chosen candidate was judged on."""
    quality = record.entry(record.chosen).quality
    samples = 0 if quality is None else quality.samples
    window, windows = record.context.get("window"), record.context.get("windows")
    if window is None or windows is None:
        return f"{samples:,} texts"
    return f"{samples:,} tokens, in {windows} windows of {window}"


def _search(record: Compilation) -> str:
    took = numbers.duration(record.seconds)
    timed = sum(bool(one.rates) for one in record.candidates)
    tried = f"{len(record.candidates)} candidates, {timed} of them timed, in {took}"
    if record.budget_seconds is None:
        return tried
    return f"{tried}, of {numbers.duration(record.budget_seconds)} allowed"


def _promise(record: Compilation) -> str:
    words = {clause.name: (clause.words, clause.upper) for clause in CLAUSES}
    shown = [
        f"{words[name][0]} {'≤' if words[name][1] else '≥'} {bound:g}"
        for name, bound in record.promise.bounds.items()
    ]
    return f"{record.promise.name}: {', '.join(shown)}"


def quality_figures(quality: Quality) -> list[tuple[str, str]]:
    """Return the figures of a quality that were measured: name and value, for people."""
    shown = (
        ("KL divergence", quality.kl_mean, "{:.4f}"),
        ("Perplexity", quality.perplexity_ratio, "× {:.3f}"),
        ("Spearman", quality.spearman, "{:.4f}"),
        ("Same first choice", quality.top1, "{:.1%}"),
        ("Accuracy", quality.accuracy, "{:.1%}"),
    )
    return [(name, form.format(value)) for name, value, form in shown if value is not None]


def rate_name(name: str) -> str:
    """Return a rate's name for people: "decode@16" is "Decode, 16 clients"."""
    kind, _, size = name.partition("@")
    if kind == "decode":
        return f"Decode, {size} client{'' if size == '1' else 's'}"
    if kind == "prefill":
        return f"Prompt of {size}"
    batch, _, length = size.partition("x")
    return f"Texts, {batch} × {length} tokens"


def _ratio(ratio: Spread) -> str:
    if ratio.count == 1:
        return f"{ratio.median:.2f}×"
    return f"{ratio.median:.2f}× [{ratio.low:.2f}–{ratio.high:.2f}]"


def _rate_order(name: str) -> tuple[str, Sequence[int]]:
    kind, _, size = name.partition("@")
    return kind, [int(one) for one in size.split("x") if one.isdigit()]
