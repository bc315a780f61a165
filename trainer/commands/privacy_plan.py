"""What a private run will claim and cost, before it starts: for `casemate privacy plan`.

With a recipe it is the plan that `casemate finetune --private` derives, with what would be
refused refused by name; the data is only counted. Without one it is arithmetic on four
numbers. Nothing is trained and no ledger is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from casemate.cli.output import warn
from trainer.privacy.errors import PrivacyError
from trainer.recipe.parse import LoadedRecipe

if TYPE_CHECKING:
    from trainer.privacy.cost import Timing
    from trainer.privacy.event import Event
    from trainer.privacy.plan import PrivacyPlan
    from trainer.recipe.schema import Recipe

Progress = Callable[[str], None]
# Claims above this hardly promise anything.
_WEAK_EPSILON = 10
_GIB = 2**30
_MIB = 2**20
# A square product of this width, long enough to tell a machine's speed and no more.
_PROBE_WIDTH, _PROBE_SECONDS = 1024, 0.3
_FLOAT_BYTES = 4
# A pass is measured with as many records as take this long, but not where one alone takes
# longer than the second figure.
_PASS_SECONDS, _LONGEST_RECORD_SECONDS = 2.0, 20.0
_MEMORY = ("weights", "gradients", "optimizer", "activations", "examples")


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
        DataError: the data cannot be counted.
    """
    from trainer.privacy.checks import check_recipe
    from trainer.privacy.plan import make_plan

    recipe = loaded.recipe
    warnings = check_recipe(recipe) if with_model else []
    if not units:
        progress("counting the data")
        # Canaries take places of their own, planted or not.
        units = count_units(recipe) + recipe.privacy.canaries
    progress("solving for the noise")
    plan = make_plan(recipe, units, earlier_releases(loaded))
    progress("accounting")
    accounted = _accounted(plan)
    cost = None
    if with_model:
        progress("estimating memory and time")
        cost = _cost(recipe, plan)
    return {
        "plan": plan.to_dict(),
        "epochs": plan.steps * plan.sampling_probability,
        "epsilon": accounted,
        "cost": cost,
        "warnings": [*warnings, *_plan_warnings(plan)],
    }


def count_units(recipe: Recipe) -> int:
    """Return the records or users of a recipe's training data, without tokenizing it.

    The run itself may leave out some records of text that make too few tokens.

    Raises:
        DataError: there is no data, or it cannot be read.
    """
    from trainer.data.examples import read_examples
    from trainer.data.files import find_files
    from trainer.data.sources import WHOLE, Part, documents_of
    from trainer.data.user_groups import count_users
    from trainer.recipe.schema import TEXT_OBJECTIVES

    data = recipe.data
    if recipe.privacy.unit == "user":
        return count_users(data, recipe.privacy.user_field)
    files = find_files(data.train, data.format)
    if recipe.objective.kind not in TEXT_OBJECTIVES:
        return sum(1 for _ in read_examples(files, recipe.objective.kind, data))
    share = 0.0 if data.validation else data.validation_fraction
    part = Part(share) if share else WHOLE
    return sum(document.begins for document in documents_of(files, data, part))


def earlier_releases(loaded: LoadedRecipe) -> tuple[Event, ...]:
    """Return what the recipe's ledger holds of its data; nothing where it names none.

    Raises:
        LedgerError: the ledger was edited or is damaged.
    """
    options = loaded.recipe.privacy
    path = Path(options.ledger)
    if not options.ledger or not path.exists():
        return ()
    from trainer.privacy.ledger import read_ledger

    name, user_field = options.dataset or loaded.name, options.users_by
    return read_ledger(path).events(name, unit=options.unit, user_field=user_field)


def _accounted(plan: PrivacyPlan) -> dict[str, float | None]:
    """Return epsilon at the plan's delta: the claim, and what stands beside it."""
    from trainer.privacy.accounting import epsilon_pld, epsilon_prv, epsilon_rdp

    delta, events = plan.delta, plan.events
    return {
        "pld": plan.epsilon,
        "rdp": epsilon_rdp(events, delta),
        "prv": epsilon_prv(events, delta),
        "this_run": epsilon_pld(plan.event, delta),
        "without_amplification": epsilon_pld([e.without_amplification() for e in events], delta),
    }


def _plan_warnings(plan: PrivacyPlan) -> list[str]:
    warnings = []
    if plan.epsilon > _WEAK_EPSILON:
        warnings.append(
            f"epsilon {plan.epsilon:.3g} is a weak promise; claims that are taken seriously are "
            f"at most about {_WEAK_EPSILON}"
        )
    return warnings


def _cost(recipe: Recipe, plan: PrivacyPlan) -> dict[str, Any] | None:
    """Return memory (bytes) and time (seconds) of a run; None for a model that is not there."""
    from security.errors import CasemateError
    from trainer.commands.estimate import estimate

    try:
        found = estimate(recipe)
        taken = _timing(recipe, plan, found)
    except PrivacyError:
        raise
    except (CasemateError, OSError) as error:
        warn(f"memory and time cannot be estimated: {error}")
        return None
    return {
        "device": found["device"],
        "parameters": found["parameters"],
        "trained": found["gradients_bytes"] // _FLOAT_BYTES,
        "memory_bytes": found["total_bytes"],
        "memory": {name: found[f"{name}_bytes"] for name in _MEMORY},
        "available_bytes": found["available_bytes"],
        "fits": found["fits"],
        "records": plan.steps * plan.expected_batch * plan.contributions,
        "seconds": taken.seconds,
        "time": taken.to_dict(),
    }


def _timing(recipe: Recipe, plan: PrivacyPlan, found: dict[str, Any]) -> Timing:
    """Return the time of a run: from a pass made here, where one record takes no minute."""
    import torch

    from trainer.loop.batches import autocast
    from trainer.loop.step import Step
    from trainer.models.memory import rows_of_pass, shapes
    from trainer.objectives.build import build_objective
    from trainer.privacy.clipping import Clipping
    from trainer.privacy.cost import meaningless_batch, time_pass, timing
    from trainer.privacy.gradients import PerExampleGradients

    device, length = torch.device(found["device"]), recipe.data.sequence_length
    vocabulary = recipe.tokenizer.vocabulary_size
    trained = found["gradients_bytes"] // _FLOAT_BYTES
    with torch.device("meta"):
        operations = shapes(recipe, vocabulary).size().flops_per_token
    record_seconds = operations * length / _speed(found["device"])
    if not found["fits"] or record_seconds > _LONGEST_RECORD_SECONDS:
        return timing(plan, basis="computed", rows=1, pass_seconds=record_seconds, trained=trained)
    rows = max(1, min(rows_of_pass(recipe, 1), int(_PASS_SECONDS / record_seconds)))
    with torch.random.fork_rng(devices=[]):
        network = shapes(recipe, vocabulary).to(device).train()
    step = Step(network, build_objective(recipe.objective, network))
    gradients = PerExampleGradients(step, network, Clipping("flat", plan.clip_norm))
    batch = meaningless_batch(network, recipe.objective.kind, rows, length, device)
    seconds = time_pass(gradients, batch, device, autocast(recipe.precision.dtype, device))
    return timing(plan, basis="measured", rows=rows, pass_seconds=seconds, trained=trained)


def _speed(device: str) -> float:
    """Return the floating point operations of a second that a matrix product reaches here."""
    import torch

    left = torch.rand(_PROBE_WIDTH, _PROBE_WIDTH, device=device)
    _finish(left @ left)
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < _PROBE_SECONDS:
        _finish(left @ left)
        products += 1
    return 2.0 * _PROBE_WIDTH**3 * products / (time.perf_counter() - began)


def _finish(product: Any) -> None:
    """Wait for a product: a GPU computes while the program goes on."""
    float(product[0, 0])


# -- for a person ------------------------------------------------------------------


def render_plan(data: dict[str, Any]) -> None:
    """Print a plan."""
    for name, text in _lines(data):
        click.echo(f"{name:<18}{text}")
    for warning in data["warnings"]:
        warn(warning)


def _lines(data: dict[str, Any]) -> list[tuple[str, str]]:
    plan, epsilon = data["plan"], data["epsilon"]
    unit = plan["unit"]
    lines = [
        ("claim", f"epsilon {plan['epsilon']:.4g} at delta {plan['delta']:.3g}"),
        ("protects", _protected(plan)),
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
        others = f"{plan['tuning_runs']} tuning runs, {len(plan['earlier'])} kinds of release"
        lines.append(("composition", f"this run alone {epsilon['this_run']:.3f}; with {others}"))
    return lines + _cost_lines(data["cost"])


def _protected(plan: dict[str, Any]) -> str:
    if plan["unit"] == "record":
        return f"each of {plan['units']:,} records"
    return (
        f"each of {plan['units']:,} users, with {plan['contributions']:,} records of each at most"
    )


def _cost_lines(cost: dict[str, Any] | None) -> list[tuple[str, str]]:
    if cost is None:
        return []
    fits = "fits" if cost["fits"] else "does not fit"
    advice = "" if cost["fits"] else "; lower batch.micro_sequences"
    return [
        ("weights", f"{cost['trained']:,} of {cost['parameters']:,} are trained"),
        (
            "memory",
            f"about {_size(cost['memory_bytes'])}; {fits} into "
            f"{_size(cost['available_bytes'])} free on {cost['device']}{advice}",
        ),
        ("", ", ".join(f"{name} {_size(size)}" for name, size in cost["memory"].items())),
        ("time", _time_text(cost)),
    ]


def _time_text(cost: dict[str, Any]) -> str:
    taken = cost["time"]
    if taken["basis"] == "measured":
        basis = (
            f"a private pass of {taken['rows']:,} records took {taken['pass_seconds']:.2g} s here"
        )
    else:
        basis = (
            "computed from the operations of an ordinary pass, at the speed of a matrix product "
            "here; private ones take longer"
        )
    return (
        f"about {_duration(cost['seconds'])}, {_duration(taken['update_seconds'])} an update, if "
        f"every record were full length: {basis}"
    )


def _figure(value: float | None) -> str:
    return "no figure" if value is None else f"{value:.3f}"


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
