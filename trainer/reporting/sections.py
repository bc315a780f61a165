"""The parts of a run's report, each from what the run's folder tells.

Each function returns None when there is nothing to show; none of them reads files.
"""

from __future__ import annotations

import math
from functools import partial

from casemate.pages import numbers
from casemate.pages.chart import Series, line_chart
from casemate.pages.markup import Markup, element, join, table
from casemate.pages.page import part, tiles
from trainer.evaluation.result import EvaluationResult
from trainer.reporting.diagrams import confusion_table, label_table, reliability_diagram
from trainer.reporting.run import RunRecord

# Words in the names of metrics that are shares: shown in percent.
_SHARES = ("accuracy", "f1", "recall", "precision", "calibration", "mfu", "match")
_SMALL_MATRIX = 4
# What the first tiles show of an evaluation, where it is there; three at most.
_HEADLINES = (
    "perplexity",
    "bits_per_byte",
    "span_f1",
    "accuracy",
    "f1_macro",
    "recall_at_1",
    "mean_reciprocal_rank",
)
# Why a run ended, as the loop says it: words and tone.
_ENDINGS = {
    "early": ("stopped early: no better validation", "good"),
    "time": ("stopped by run.max_minutes", "good"),
    "asked": ("stopped when asked", "open"),
}
_NAMES = {
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "expected_calibration_error": "calibration error",
    "mean_reciprocal_rank": "mean reciprocal rank",
    "bits_per_byte": "bits per byte",
}


def metric_name(name: str) -> str:
    """Return a metric's name for people."""
    return _NAMES.get(name, name.replace("_", " "))


def metric_text(name: str, value: float) -> str:
    """Return a metric's value for people: shares in percent."""
    share = any(word in name.lower() for word in _SHARES) and abs(value) <= 1
    return numbers.percent(value) if share else numbers.figure(value)


def header(run: RunRecord) -> Markup:
    """Return the name of the run, its state and what was trained."""
    plan = run.plan
    facts = [f"{plan.family}, {plan.objective}"] if plan.family else []
    if plan.parameters:
        facts.append(f"{numbers.count(plan.parameters)} parameters")
    facts.append(plan.device)
    if plan.ranks > 1:
        facts.append(f"{plan.ranks} ranks ({plan.strategy})")
    facts.append(plan.dtype)
    words, kind = _state(run)
    state = element("span", words, class_=f"state {kind}")
    return element(
        "header",
        element("div", "Casemate training report", class_="brand"),
        element("h1", element("bdi", plan.name), state),
        element("p", " · ".join(facts), class_="facts"),
    )


def _state(run: RunRecord) -> tuple[str, str]:
    if run.summary is None:
        return "not finished", "open"
    # A run that fails ends with an empty summary.
    if not run.summary or run.summary.get("error"):
        return "ended by an error", "bad"
    return _ENDINGS.get(str(run.summary.get("reason")), ("finished", "good"))


def overview(run: RunRecord) -> Markup | None:
    """Return the run's most important figures."""
    found: list[tuple[str, str, str]] = []
    validated = [one for one in run.validation_curve("loss") if math.isfinite(one[1])]
    if validated:
        step, best = min(validated, key=lambda one: one[1])
        last_step, last = validated[-1]
        remark = f"after the last step, {step:,.0f}"
        if step != last_step:
            remark = f"best, after step {step:,.0f}; last {last:.4f}"
        found.append(("Validation loss", f"{best:.4f}", remark))
    if run.evaluation is not None:
        found += _headlines(run.evaluation)
    if run.steps:
        found += _effort(run)
    if run.plan.parameters and run.plan.trainable != run.plan.parameters:
        trainable = f"{numbers.count(run.plan.trainable)}"
        found.append(("Trained", trainable, f"of {numbers.count(run.plan.parameters)} parameters"))
    return tiles(found) if found else None


def _headlines(result: EvaluationResult) -> list[tuple[str, str, str]]:
    found = []
    for name in _HEADLINES:
        if name in result.metrics:
            interval = result.intervals.get(name)
            remark = " – ".join(numbers.percent(end) for end in interval) if interval else ""
            text = metric_text(name, result.metrics[name])
            title = metric_name(name)
            found.append((title[0].upper() + title[1:], text, remark and f"{remark} (95%)"))
    return found[:3]


def _effort(run: RunRecord) -> list[tuple[str, str, str]]:
    last = run.steps[-1]
    tokens, seconds = float(last.get("tokens") or 0), float(last.get("seconds") or 0)
    found = [
        ("Steps", f"{last['step']:,}", f"of {run.plan.steps:,}; {numbers.count(tokens)} tokens")
    ]
    if seconds > 0:
        speed = f"{numbers.count(tokens / seconds)} tokens/s on average" if tokens else ""
        found.append(("Training time", numbers.duration(seconds), speed))
    return found


def curves(run: RunRecord) -> Markup | None:
    """Return the curves of a run: loss first, the others smaller below."""
    losses = [Series("training", run.curve("loss"), tone=1, smooth=True)]
    validated = run.validation_curve("loss")
    finite = [one for one in validated if math.isfinite(one[1])]
    best = min(finite, key=lambda one: one[1]) if finite else None
    remark = f"best {best[1]:.4f} after step {best[0]:,.0f}" if best else ""
    losses.append(Series("validation", validated, tone=2, dots=True, remark=remark))
    first = line_chart(
        "Loss over steps, nats per target", losses, tall=True, text=lambda one: f"{one:.4f}"
    )
    small = [
        line_chart(
            "Learning rate",
            [Series("", run.curve("learning_rate"))],
            from_zero=True,
            text=lambda one: f"{one:.2e}",
        ),
        line_chart(
            "Tokens per second",
            [Series("", run.curve("tokens_per_second"), smooth=True)],
            from_zero=True,
            text=numbers.count,
        ),
        line_chart("Gradient norm", [Series("", run.curve("gradient_norm"), smooth=True)]),
        line_chart(
            "Share of peak arithmetic (MFU)",
            [Series("", run.curve("mfu"), smooth=True)],
            from_zero=True,
            text=numbers.percent,
        ),
        *_validation_charts(run),
    ]
    shown = [one for one in small if one is not None]
    if first is None and not shown:
        return None
    above = element("div", first, class_="charts first") if first is not None else None
    # Three fit one row; any other number stands in pairs.
    kind = "charts three" if len(shown) == 3 else "charts two"
    return part("How it went", above, element("div", *shown, class_=kind) if shown else None)


def _validation_charts(run: RunRecord) -> list[Markup | None]:
    names = {name: None for one in run.validations for name in (one.get("metrics") or {})}
    charts = []
    for name in names:
        points = run.validation_curve(name)
        # One point is no curve, and perplexity and bits are the loss once more.
        if len(points) > 1 and name not in ("loss", "perplexity", "bits_per_byte"):
            series = Series("", points, tone=2, dots=True)
            title = f"Validation {metric_name(name)}"
            charts.append(line_chart(title, [series], text=partial(metric_text, name)))
    return charts


def evaluation(run: RunRecord) -> Markup | None:
    """Return the figures of the final weights on the validation data."""
    result = run.evaluation
    if result is None:
        return None
    said = (
        f"{result.examples:,} examples, {result.targets:,} predictions, "
        f"in {numbers.duration(result.seconds)}."
    )
    rows = [["loss", f"{result.loss:.4f}", ""]]
    for name, value in result.metrics.items():
        interval = result.intervals.get(name)
        remark = " – ".join(metric_text(name, end) for end in interval) if interval else ""
        rows.append([metric_name(name), metric_text(name, value), remark])
    columns = 3 if result.intervals else 2
    heading = ["figure", "value", "95% interval"][:columns]
    figures = table(heading, (row[:columns] for row in rows), class_="numbers")
    matrix = confusion_table(result.labels, result.confusion)
    # A small matrix stands below the figures, a large one has the whole width.
    small = len(result.labels) <= _SMALL_MATRIX
    stack = element(
        "div", element("div", figures, class_="card"), matrix if small else None, class_="stack"
    )
    grid = element("div", stack, reliability_diagram(result.reliability), class_="charts")
    wide = [one for one in (None if small else matrix, _by_label(result)) if one is not None]
    below = [element("div", one, class_="above") for one in wide]
    notes = [element("p", note, class_="soft") for note in result.notes]
    return part("Evaluation", element("p", said, class_="soft"), *notes, grid, *below)


def _by_label(result: EvaluationResult) -> Markup | None:
    rows = label_table(result.per_label)
    if rows is None:
        return None
    caption = element("figcaption", element("span", "By label", class_="title"))
    return element("figure", caption, rows)


def samples(run: RunRecord) -> Markup | None:
    """Return what the model wrote."""
    if not run.samples:
        return None
    cards = []
    for one in run.samples:
        caption = element("h3", f"temperature {one.temperature:g}")
        text = join((element("span", one.prompt.lstrip("\n"), class_="prompt"), one.text))
        cards.append(element("figure", caption, element("pre", text, dir="auto")))
    said = element("p", "Written by the final weights; a prompt is set in grey.", class_="soft")
    return part("Samples", said, element("div", *cards, class_="samples"))


def log(run: RunRecord) -> Markup | None:
    """Return what was noted on the way and what could not be read."""
    lines = [f"Resumed after step {step:,}." for step in run.resumed]
    lines += [f"After step {step:,}: {text}" for step, text in run.notes]
    if run.summary is not None and run.summary.get("error"):
        lines.append(str(run.summary["error"]))
    lines += run.remarks
    if not lines:
        return None
    return part(
        "Log",
        element("div", element("ul", *(element("li", one) for one in lines)), class_="card"),
    )
