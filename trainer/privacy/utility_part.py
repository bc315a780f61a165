"""The part of a privacy report's page that says what privacy cost, and whom."""

from __future__ import annotations

from casemate.pages.markup import Child, Markup, element, table
from casemate.pages.page import part
from trainer.privacy.disparity import cost_of, disparity_words
from trainer.privacy.sections import GroupUtility, Utility
from trainer.reporting.sections import metric_name, metric_text


def utility_part(utility: Utility | None) -> Markup | None:
    """Return the figures beside those of the twin, by group; None if none were taken."""
    if utility is None:
        return None
    name = metric_name(utility.metric)
    heading = (name[:1].upper() + name[1:], "Examples", "With privacy", "Without", "Cost")
    rows = [_utility_row("All", utility, utility)]
    rows += [_utility_row(element("bdi", each.name), each, utility) for each in utility.groups]
    if utility.chance is not None:
        nothing = metric_text(name, utility.chance)
        rows.append(("Having learned nothing", "", nothing, nothing, ""))
    direction = "Higher" if utility.higher_is_better else "Lower"
    said = (
        f"This model beside its twin: the same recipe without privacy, on the same examples. "
        f"{direction} is better; in brackets, intervals of {utility.confidence:.0%}."
    )
    return part(
        "What privacy cost",
        element("p", said),
        _kept(utility),
        *_unequal(utility),
        table(heading, rows, class_="numbers"),
    )


def _utility_row(
    name: Child, figures: Utility | GroupUtility, utility: Utility
) -> tuple[Child, ...]:
    metric = metric_name(utility.metric)
    cost = cost_of(figures, higher_is_better=utility.higher_is_better)
    return (
        name,
        f"{figures.examples:,}",
        _within(metric, figures.private, figures.private_interval),
        _within(metric, figures.twin, figures.twin_interval),
        _within(metric, cost, figures.cost_interval),
    )


def _within(metric: str, value: float, interval: tuple[float, ...]) -> str:
    shown = [metric_text(metric, each) for each in (value, *interval)]
    return f"{shown[0]} ({shown[1]} to {shown[-1]})"


def _kept(utility: Utility) -> Markup | None:
    if utility.kept is None:
        return None
    low, high = utility.kept_interval[0], utility.kept_interval[-1]
    return element(
        "p",
        f"Of what the twin gained over having learned nothing, this model has {utility.kept:.0%} "
        f"({low:.0%} to {high:.0%}).",
    )


def _unequal(utility: Utility) -> list[Markup]:
    """Say in words whom privacy costs more than all; nothing where there is nobody."""
    return [element("p", text, class_="card") for text in disparity_words(utility)]
