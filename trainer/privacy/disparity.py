"""Whom privacy costs more: groups whose loss of utility is larger than that of all.

Clipping holds back what is rare, and noise hides what few examples say, so that small
groups often pay more than the average shows (Bagdasaryan, Poursaeed and Shmatikov 2019).
Pure functions of a report's own figures; a page and an answer say the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.privacy.sections import GroupUtility, Utility
from trainer.reporting.sections import metric_name, metric_text

# Groups that a sentence names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Disparity:
    """A group that privacy costs more than it costs all.

    Attributes:
        group: its figures.
        cost: how much better the twin is for it.
        certain: whether the whole interval of that lies above the cost for all.
    """

    group: GroupUtility
    cost: float
    certain: bool


def cost_of(figures: Utility | GroupUtility, *, higher_is_better: bool) -> float:
    """Return how much better the twin is, in the metric's own unit; below 0 if it is worse."""
    difference = figures.twin - figures.private
    return difference if higher_is_better else -difference


def disparities(utility: Utility) -> tuple[Disparity, ...]:
    """Return the groups that lose more than all together do, the worst first."""
    higher = utility.higher_is_better
    whole = cost_of(utility, higher_is_better=higher)
    found = [
        Disparity(group, cost, group.cost_interval[0] > whole)
        for group in utility.groups
        # What is not lost is no cost, however it compares.
        if (cost := cost_of(group, higher_is_better=higher)) > max(whole, 0.0)
    ]
    return tuple(sorted(found, key=lambda each: (-each.cost, each.group.name)))


def disparity_words(utility: Utility) -> tuple[str, ...]:
    """Return in plain words whom privacy costs more than all; nothing where there is nobody."""
    found = disparities(utility)
    if not found:
        return ()
    metric = metric_name(utility.metric)
    whole = cost_of(utility, higher_is_better=utility.higher_is_better)
    each = ", ".join(
        f"{one.group.name} ({metric_text(metric, one.cost)}, {one.group.examples:,} examples)"
        for one in found[:_NAMED]
    )
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    sure = [one.group.name for one in found if one.certain]
    verdict = (
        f"Chance does not explain it for {', '.join(sure[:_NAMED])}."
        if sure
        else "So few examples may differ so much by chance: measure on more before you rely on it."
    )
    return (
        f"Privacy does not cost everybody the same. It costs {metric_text(metric, whole)} of "
        f"{metric} over all, and more for {each}{more}. {verdict}",
    )
