"""What a private run takes of memory and time, before it starts: for `casemate privacy plan`.

Memory is computed; time comes from a private pass that is made here and now, of records of full
length and of no meaning. Nothing is trained.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from casemate.cli.output import warn
from trainer.privacy.errors import PrivacyError

if TYPE_CHECKING:
    from trainer.privacy.cost import Timing
    from trainer.privacy.plan import PrivacyPlan
    from trainer.recipe.schema import Recipe

_GIB = 2**30
_MIB = 2**20
# A square product of this width, long enough to tell a machine's speed and no more.
_PROBE_WIDTH, _PROBE_SECONDS = 1024, 0.3
_FLOAT_BYTES = 4
# A pass is measured with as many records as take this long, but not where one alone takes
# longer than the second figure.
_PASS_SECONDS, _LONGEST_RECORD_SECONDS = 2.0, 20.0
_MEMORY = ("weights", "gradients", "optimizer", "activations", "examples")


def cost_of(recipe: Recipe, plan: PrivacyPlan) -> dict[str, Any] | None:
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
    from trainer.privacy.checks import check_network
    from trainer.privacy.clipping import Clipping
    from trainer.privacy.cost import meaningless_batch, time_pass, timing
    from trainer.privacy.gradients import PerExampleGradients

    device, length = torch.device(found["device"]), recipe.data.sequence_length
    vocabulary = recipe.tokenizer.vocabulary_size
    trained = found["gradients_bytes"] // _FLOAT_BYTES
    with torch.device("meta"):
        unmade = shapes(recipe, vocabulary)
    check_network(unmade)
    operations = unmade.size().flops_per_token
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


def cost_lines(cost: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what a run takes as the lines of a plan: a name and a text each."""
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


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
