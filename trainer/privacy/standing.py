"""How a run stands with the ledger of its data before it begins: what was released, what is left.

Epsilon is never a run's own: it is the total with everything that the ledger holds of the same
data. A ledger that has been used raises the noise of the next run, and the owner's budget says
when it is enough. Here both are worked out and put into words, for a plan and for a run alike.

It refuses a ledger that is missing, one whose budget is for other data or other units, and a
run that the budget does not allow. Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.errors import BudgetExhausted, LedgerError
from trainer.privacy.event import Event
from trainer.privacy.ledger import Budget, LedgerView, read_ledger
from trainer.privacy.ledger_state import check_budget
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.record import REPORT_NAME, PrivacyReport
from trainer.privacy.report import PAGE_NAME
from trainer.recipe.parse import LoadedRecipe


@dataclass(frozen=True, slots=True)
class Standing:
    """What a ledger says of a data set.

    Attributes:
        ledger: its path; None where a run makes one of its own.
        dataset: the name that the data counts under.
        earlier: what other runs released of it.
        budget: what its owner allows in all, or None.
        others: names of other data that the ledger holds releases of.
    """

    ledger: Path | None
    dataset: str
    earlier: tuple[Event, ...] = ()
    budget: Budget | None = None
    others: tuple[str, ...] = ()


def standing_of(loaded: LoadedRecipe) -> Standing:
    """Return how a recipe stands before its run begins, by the ledger that it names.

    Raises:
        LedgerError: the ledger is missing, damaged, or its budget is for other data.
        PrivacyError: users are to be protected, and a release protects others.
    """
    options = loaded.recipe.privacy
    dataset = options.dataset or loaded.name
    if not options.ledger:
        return Standing(None, dataset)
    path = Path(options.ledger)
    if not path.exists():
        raise LedgerError.missing(path, dataset)
    return standing_with(path, read_ledger(path), dataset, options.unit, options.users_by)


def standing_with(
    path: Path, view: LedgerView, dataset: str, unit: str, user_field: str, *, without: str = ""
) -> Standing:
    """Return what a ledger that was read says of a data set, one run left out.

    Raises:
        LedgerError: its budget is for other data, or for another unit.
        PrivacyError: users are to be protected, and a release protects others.
    """
    if view.budget is not None:
        check_budget(view.budget, dataset, unit, user_field)
    earlier = view.events(dataset, unit=unit, user_field=user_field, without=without)
    names = dict.fromkeys(release.dataset for release in view.releases if release.charged)
    others = tuple(name for name in names if name != dataset)
    return Standing(path, dataset, earlier, view.budget, others)


def figures_of(standing: Standing, plan: PrivacyPlan, *, solved: bool = True) -> dict[str, Any]:
    """Return what was released and what will be, as JSON types; takes a second or two.

    `released` and `with_this_run` are epsilons at `delta`: the budget's, or the claim's where
    there is none. `this_run` is the run alone, at the claim's delta.

    Args:
        standing: of the data.
        plan: of the run.
        solved: the plan's noise was solved for, so that earlier releases raise it.
    """
    budget = standing.budget
    delta = plan.delta if budget is None else budget.delta
    earlier = standing.earlier
    return {
        "ledger": None if standing.ledger is None else str(standing.ledger),
        "dataset": standing.dataset,
        "budget": None
        if budget is None
        else {
            "epsilon": budget.epsilon,
            "delta": budget.delta,
            "unit": budget.unit,
            "user_field": budget.user_field,
        },
        "delta": delta,
        "released": epsilon_pld(earlier, delta) if earlier else 0.0,
        "with_this_run": plan.epsilon if budget is None else epsilon_pld(plan.events, delta),
        "this_run": epsilon_pld(plan.event, plan.delta)
        if earlier or plan.tuning_runs
        else plan.epsilon,
        "claim_delta": plan.delta,
        "noise_raised": solved and bool(earlier),
        "others": list(standing.others),
    }


def refuse_excess(figures: dict[str, Any]) -> None:
    """Refuse a run that its data's owner does not allow; `figures` as `figures_of` gives them.

    Raises:
        BudgetExhausted: with what the budget is, and what of it is gone.
    """
    budget = figures["budget"]
    if budget is not None and figures["with_this_run"] > budget["epsilon"]:
        raise BudgetExhausted(
            f"the budget of {figures['dataset']!r} is epsilon {budget['epsilon']:g} at delta "
            f"{budget['delta']:g} for each {budget['unit']}: {figures['released']:.3f} of it was "
            f"released before, and with this run it would be {figures['with_this_run']:.3f}. Take "
            "fewer updates or more noise (a smaller privacy.epsilon), or ask the owner of the data"
        )


def words_of(figures: dict[str, Any], epsilon: float) -> tuple[str, ...]:
    """Return in a sentence or two what remains, and what earlier releases do to this run.

    Args:
        figures: as `figures_of` gives them.
        epsilon: of the claim, earlier releases included.
    """
    name, budget = figures["dataset"], figures["budget"]
    if figures["ledger"] is None:
        return (
            "none is named (privacy.ledger): the run makes one of its own in its folder, without "
            f"a budget, and what other runs release of {name!r} is not counted",
        )
    before, after = figures["released"], figures["with_this_run"]
    if budget is None:
        first = (
            f"{figures['ledger']} has no budget; {before:.3f} was released of {name!r} before, at "
            f"delta {figures['delta']:.4g}"
        )
    else:
        left = max(0.0, budget["epsilon"] - after)
        first = (
            f"{figures['ledger']}, budget of {name!r}: epsilon {budget['epsilon']:g} at delta "
            f"{budget['delta']:g} for each {budget['unit']}; {before:.3f} was released before, "
            f"{after:.3f} with this run, and {left:.3f} remains"
        )
    if figures["others"] and not before:
        return (
            first,
            f"it holds releases of {', '.join(map(repr, figures['others']))}, which are not "
            "counted; if that is the same data, name it so (privacy.dataset)",
        )
    if not before:
        return (first,)
    raised = ", so this run gets more noise" if figures["noise_raised"] else ""
    return (
        first,
        f"epsilon {epsilon:.4g} (at the claim's delta, {figures['claim_delta']:.4g}) is the total "
        f"with those earlier releases{raised}: alone it comes to {figures['this_run']:.3f}",
    )


def claimed_of(report: PrivacyReport, final: Path, ledger: Path) -> dict[str, Any]:
    """Return what a run may claim and where it stands at its end, as JSON types.

    `released` is what the data has given in all to this day, at `released_delta`: the
    budget's, or the claim's where the owner set no budget.

    Args:
        report: of the exported checkpoint.
        final: its folder.
        ledger: that the run was charged to.
    """
    claim, composed = report.claim, report.composition
    released, delta = claim.epsilon, claim.delta
    if composed.budget is not None:
        view, delta = read_ledger(ledger), composed.budget.delta
        by = claim.user_field or ""
        standing = standing_with(ledger, view, composed.dataset, claim.unit, by)
        released = epsilon_pld(standing.earlier, delta)
    return {
        "epsilon": claim.epsilon,
        "delta": claim.delta,
        "unit": claim.unit,
        "units": report.mechanism.units,
        "report": str(final / REPORT_NAME),
        "page": str(final.parent / PAGE_NAME),
        "ledger": str(ledger),
        "dataset": composed.dataset,
        "budget": None if composed.budget is None else composed.budget.epsilon,
        "released": released,
        "released_delta": delta,
    }


def delta_words(delta: float, units: int) -> str:
    """Return a delta for people, and where it comes from if the recipe named none."""
    return f"{delta:.4g}" + (f" (half of 1/{units:,})" if delta == 0.5 / units else "")
