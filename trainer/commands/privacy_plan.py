"""What a private run will claim and cost, before it starts: for `casemate privacy plan`.

With a recipe it is the plan that `casemate finetune --private` derives, with what would be
refused refused by name; the data is read and counted. Without one it is arithmetic on four
numbers. Nothing is trained and no ledger is written. What is cheap to refuse is refused first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import counted, warn
from trainer.commands.preflight import check_data, check_ledger, check_start
from trainer.commands.privacy_cost import cost_lines, cost_of
from trainer.commands.privacy_data import count_units
from trainer.recipe.parse import LoadedRecipe

if TYPE_CHECKING:
    from trainer.privacy.plan import PrivacyPlan

Progress = Callable[[str], None]
# An audit compares canaries with one another.
_FEWEST_CANARIES = 2


def plan_of(
    loaded: LoadedRecipe, *, units: int, with_model: bool, progress: Progress
) -> dict[str, Any]:
    """Return everything that is known of a private run, as JSON types.

    Args:
        loaded: the recipe.
        units: records or users; 0 counts them.
        with_model: the recipe is a whole one: check it, and estimate memory and time.
        progress: is told what is being done.

    Raises:
        PrivacyError: what cannot be claimed, by name.
        LedgerError: the ledger that it names cannot be used.
        DataError: the data cannot be used.
    """
    from trainer.privacy.checks import LOGS_NOTE, check_recipe, plan_warnings

    recipe, privacy = loaded.recipe, loaded.recipe.privacy
    # 1. What needs no reading of data, and no imports that take seconds: recipe, files, ledger.
    warnings = check_recipe(recipe) if with_model else []
    if with_model:
        check_start(recipe)
    if not units:
        check_data(recipe)
    check_ledger(loaded)

    from trainer.privacy.plan import make_plan
    from trainer.privacy.standing import figures_of, refuse_excess, standing_of

    standing = standing_of(loaded)
    # 2. How many records or users there are. Canaries take places of their own, planted or not.
    if not units:
        progress("reading the data")
        found = count_units(loaded, progress)
        units = found.units + privacy.canaries
        warnings += found.warnings
    # 3. The plan, and what stands beside it.
    progress(f"working out the noise for {units:,} {privacy.unit}s")
    plan = make_plan(recipe, units, standing.earlier)
    progress("working out what remains of the budget")
    ledger = figures_of(standing, plan, solved=not privacy.noise_multiplier)
    refuse_excess(ledger)
    progress("accounting by other accountants")
    accounted = _accounted(plan, ledger["this_run"])
    # 4. What it takes.
    cost = None
    if with_model:
        progress("estimating memory, and measuring a private pass")
        cost = cost_of(recipe, plan)
    return {
        "plan": plan.to_dict(),
        "epochs": plan.steps * plan.sampling_probability,
        "epsilon": accounted,
        "ledger": ledger,
        "canaries": _canaries(privacy.canaries, plan.delta),
        "cost": cost,
        "notes": [LOGS_NOTE] if with_model else [],
        "warnings": [*warnings, *plan_warnings(recipe, plan)],
    }


def _canaries(planted: int, delta: float) -> dict[str, Any] | None:
    """Return how far an audit with so many canaries could reach; None without."""
    if planted < _FEWEST_CANARIES:
        return {"planted": planted, "ceiling": 0.0} if planted else None
    from trainer.privacy.audit.planning import reach_of

    return {"planted": planted, "ceiling": reach_of(planted, delta).ceiling}


def _accounted(plan: PrivacyPlan, alone: float) -> dict[str, float | None]:
    """Return epsilon at the plan's delta: the claim, and what stands beside it."""
    from trainer.privacy.accounting import epsilon_pld, epsilon_prv, epsilon_rdp

    delta, events = plan.delta, plan.events
    return {
        "pld": plan.epsilon,
        "rdp": epsilon_rdp(events, delta),
        "prv": epsilon_prv(events, delta),
        "this_run": alone,
        "without_amplification": epsilon_pld([e.without_amplification() for e in events], delta),
    }


# -- for a person ------------------------------------------------------------------


def render_plan(data: dict[str, Any]) -> None:
    """Print a plan."""
    for name, text in _lines(data):
        click.echo(f"{name:<18}{text}")
    for note in data["notes"]:
        click.echo(f"note: {note}", err=True)
    for warning in data["warnings"]:
        warn(warning)


def _lines(data: dict[str, Any]) -> list[tuple[str, str]]:
    from trainer.privacy.standing import delta_words, words_of

    plan, epsilon = data["plan"], data["epsilon"]
    unit, delta = plan["unit"], delta_words(plan["delta"], plan["units"])
    lines = [
        ("claim", f"epsilon {plan['epsilon']:.4g} at delta {delta}"),
        *_under("ledger", words_of(data["ledger"], plan["epsilon"])),
        ("protects", _protected(plan)),
        *_canary_lines(data["canaries"], unit),
        (
            "batches",
            f"{plan['expected_batch']:,} {unit}s expected, {plan['cap']:,} at most; "
            f"q = {plan['sampling_probability']:.4g}, by secret coins",
        ),
        (
            "updates",
            f"T = {plan['steps']:,}, {data['epochs']:.3g} expected passes over the data",
        ),
        (
            "noise",
            f"multiplier {plan['noise_multiplier']:.4f} times {plan['sensitivity']:g} "
            f"({plan['clipping']} clipping): {plan['noise_std']:.4g} on each sum",
        ),
        ("noise / batch", f"{plan['noise_to_batch_ratio']:.3g}; the loss follows it"),
        (
            "epsilon by",
            f"PLD {epsilon['pld']:.3f} (the claim), RDP {epsilon['rdp']:.3f}, "
            f"PRV {_figure(epsilon['prv'])}",
        ),
        (
            "",
            f"{epsilon['without_amplification']:.3f} if batches were shuffled and not drawn by "
            "secret coins",
        ),
    ]
    if plan["earlier"] or plan["tuning_runs"]:
        tuning = counted(plan["tuning_runs"], "tuning run", "tuning runs")
        kinds = counted(len(plan["earlier"]), "kind of release", "kinds of release")
        others = f"{tuning}, {kinds} before"
        lines.append(("composition", f"this run alone {epsilon['this_run']:.3f}; with {others}"))
    return lines + cost_lines(data["cost"])


def _under(name: str, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name if not number else "", text) for number, text in enumerate(texts)]


def _canary_lines(canaries: dict[str, Any] | None, unit: str) -> list[tuple[str, str]]:
    if canaries is None:
        return []
    return [
        (
            "canaries",
            f"{canaries['planted']:,} of these {unit}s are canaries, planted or not; an audit with "
            f"them can show epsilon {canaries['ceiling']:.2f} at most",
        )
    ]


def _protected(plan: dict[str, Any]) -> str:
    if plan["unit"] == "record":
        return f"each of {plan['units']:,} records"
    return (
        f"each of {plan['units']:,} users, with {plan['contributions']:,} records of each at most"
    )


def _figure(value: float | None) -> str:
    return "no figure" if value is None else f"{value:.3f}"
