"""What a private run needs before its first update: canaries, a plan, a name in the ledger.

    RUN/canaries.json        which records were planted, by secret coins (mode 0600)
    RUN/private-plan.json    the plan and the run's name, made once and kept
    RUN/privacy-ledger.jsonl the ledger, unless the recipe names another

The first rank makes them; the others are told. A run that goes on keeps its plan: one
that was made again could promise something else than what was charged. So a folder with
a checkpoint refuses another recipe, and nothing in it is touched.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.checkpointing.layout import complete_steps
from trainer.data.assemble import DataBundle, silent
from trainer.data.batch import DataSet
from trainer.distribution.group import Group
from trainer.errors import RecipeError
from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.audit.insertion import prepare_canaries, with_canaries
from trainer.privacy.errors import LedgerError, PrivacyError
from trainer.privacy.event import Event
from trainer.privacy.ledger import Ledger, read_ledger
from trainer.privacy.ledger_state import Head
from trainer.privacy.plan import PrivacyPlan, make_plan
from trainer.privacy.releases import Releases
from trainer.recipe.digest import recipe_digest
from trainer.recipe.parse import LoadedRecipe
from trainer.recipe.schema import Recipe
from trainer.reporting.files import write_whole

PLAN_FILE = "private-plan.json"
LEDGER_FILE = "privacy-ledger.jsonl"
CANARIES_FILE = "canaries.json"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A private run, ready to begin.

    Attributes:
        run_id: its name in the ledger.
        plan: everything that the claim rests on.
        dataset: the name of the data in the ledger.
        ledger: path of the ledger.
        train: the records, canaries included.
        groups: of each user the indices of their records; None if a record is the unit.
        canaries_digest: of canaries.json; None without canaries.
        promised: privacy.epsilon, what may be claimed at most.
    """

    run_id: str
    plan: PrivacyPlan
    dataset: str
    ledger: Path
    train: DataSet
    groups: list[npt.NDArray[np.int64]] | None
    canaries_digest: str | None
    promised: float


def prepare(
    loaded: LoadedRecipe,
    output: Path,
    group: Group,
    data: DataBundle,
    tell: Callable[[str], None] = silent,
) -> Prepared:
    """Plant the canaries, make or read the plan; every rank calls it.

    `tell` is told of what takes long.

    Raises:
        PrivacyError: what was asked for cannot be claimed.
        LedgerError: the ledger that the recipe names cannot be used.
    """
    recipe = loaded.recipe
    train, groups, digest = _plant(recipe, output, group, data)
    ledger, dataset = ledger_of(loaded, output)
    units = len(train) if groups is None else len(groups)
    known: Any = None
    if group.is_first:
        tell(f"working out the noise for {units:,} {recipe.privacy.unit}s")
        known = _planned(loaded, output, ledger, dataset, units)
    known = group.broadcast(known)
    plan = PrivacyPlan.from_dict(known["plan"])
    if plan.units != units:
        raise PrivacyError(
            f"{output / PLAN_FILE} was made for {plan.units:,} {plan.unit}s, and the data holds "
            f"{units:,} now; restore the data, or begin a new run in another folder (-o)"
        )
    return Prepared(
        run_id=known["run_id"],
        plan=plan,
        dataset=dataset,
        ledger=ledger,
        train=train,
        groups=groups,
        canaries_digest=digest,
        promised=recipe.privacy.epsilon,
    )


def ledger_of(loaded: LoadedRecipe, output: Path) -> tuple[Path, str]:
    """Return the ledger of a run, its own unless the recipe names one, and its name of the data."""
    options = loaded.recipe.privacy
    ledger = Path(options.ledger) if options.ledger else output / LEDGER_FILE
    return ledger, options.dataset or loaded.name


def begin(prepared: Prepared, group: Group, *, step: int, head: Head | None) -> Releases:
    """Open the ledger, and announce what is left of the run.

    Args:
        prepared: the run.
        group: the ranks; the first holds the ledger.
        step: updates made before.
        head: where the ledger stood in the checkpoint that the run goes on from.

    Raises:
        BudgetExhausted: the owner of the data does not allow all of it.
        LedgerError: the ledger is missing, edited, or held by another run.
        PrivacyError: releases since the plan was made leave no room below privacy.epsilon.
    """
    if not group.is_first:
        return Releases(None, prepared.run_id, group)
    ledger = Ledger.open(prepared.ledger, since=head)
    left = prepared.plan.steps - step
    try:
        # Of a run that was cut after its last update, nothing is left to announce.
        if left:
            event = prepared.plan.event.of(left)
            _refuse_excess(prepared, ledger)
            ledger.begin(
                prepared.run_id,
                prepared.dataset,
                event,
                prepared.plan.unit,
                user_field=prepared.plan.user_field,
                tuning=prepared.plan.steps * prepared.plan.tuning_runs,
            )
    except PrivacyError:
        ledger.close()
        raise
    return Releases(ledger, prepared.run_id, group)


def _refuse_excess(prepared: Prepared, ledger: Ledger) -> None:
    """Refuse a run that would begin and, with what its ledger holds now, claim too much.

    A run that was charged goes on: the report says it where the claim comes out larger.
    """
    plan, releases = prepared.plan, ledger.view().releases
    own = [release for release in releases if release.run_id == prepared.run_id]
    if any(release.charged > release.tuning for release in own):
        return
    earlier = ledger.releases(
        prepared.dataset, unit=plan.unit, user_field=plan.user_field, without=prepared.run_id
    )
    if earlier == plan.earlier:
        return
    epsilon = epsilon_pld(dataclasses.replace(plan, earlier=earlier).events, plan.delta)
    if epsilon > prepared.promised:
        raise PrivacyError(
            f"{prepared.ledger} was charged by other runs since this one was planned: it would "
            f"come to epsilon {epsilon:.4g}, more than privacy.epsilon = {prepared.promised:g}. "
            "Begin it in another folder (-o), where it is planned with them"
        )


def refuse_another(recipe: Recipe, output: Path) -> None:
    """Refuse another recipe, or a lost plan, in a folder that has learned privately or is to.

    It changes nothing, and is asked before anything of a run is written.

    Raises:
        RecipeError: the folder has learned by another recipe.
        PrivacyError: nobody can say what it promised.
    """
    folder, path = output / "checkpoints", output / PLAN_FILE
    if not (folder.is_dir() and complete_steps(folder)):
        return
    if not (recipe.privacy.enabled or path.exists()):
        return
    if not path.exists():
        raise PrivacyError(
            f"{output} holds checkpoints and no {PLAN_FILE}: nobody can say what they promised. "
            "Restore it, or begin a new run in another folder (-o)"
        )
    if _read_plan(path)["recipe"] != recipe_digest(recipe):
        raise RecipeError(
            f"{output} holds checkpoints of a private run by another recipe, and its promise "
            "stands: start it with the recipe and the overrides that it was begun with, or begin a "
            "new run in another folder (-o)"
        )


def _plant(
    recipe: Recipe, output: Path, group: Group, data: DataBundle
) -> tuple[DataSet, list[npt.NDArray[np.int64]] | None, str | None]:
    groups = data.groups
    if not recipe.privacy.canaries:
        return data.train, groups, None
    if not group.is_first:
        group.barrier()
    units = len(data.train) if groups is None else len(groups)
    planted = prepare_canaries(
        output / CANARIES_FILE,
        recipe.privacy.canaries,
        objective=recipe.objective,
        data=recipe.data,
        tokenizer=data.tokenizer,
        labels=data.labels,
        units=units,
    )
    if group.is_first:
        group.barrier()
    train = with_canaries(
        data.train,
        planted,
        objective=recipe.objective,
        data=recipe.data,
        tokenizer=data.tokenizer,
        labels=data.labels,
        seed=recipe.run.seed,
    )
    return train, None if groups is None else train.groups(groups), planted.digest


def _planned(
    loaded: LoadedRecipe, output: Path, ledger: Path, dataset: str, units: int
) -> dict[str, Any]:
    """Return the run's name and plan as JSON, from their file or made anew.

    A run that learned nothing yet may begin again by another recipe; it gets a plan and a
    name of its own, and what the first one was charged counts as an earlier release.
    """
    recipe = loaded.recipe
    path = output / PLAN_FILE
    digest = recipe_digest(recipe)
    known = _read_plan(path) if path.exists() else None
    if known is not None and known["recipe"] == digest:
        return known
    # 1. The plan, with everything that was released before; what cannot be claimed leaves
    #    nothing behind.
    earlier: tuple[Event, ...] = ()
    begins = not ledger.exists()
    if begins:
        _refuse_missing(recipe, ledger, dataset, begun=known is not None)
    else:
        unit, user_field = recipe.privacy.unit, recipe.privacy.users_by
        earlier = read_ledger(ledger).events(dataset, unit=unit, user_field=user_field)
    plan = make_plan(recipe, units, earlier)
    # 2. The ledger goes before the plan: a plan without one is a ledger that was taken away.
    if begins:
        Ledger.create(ledger).close()
    known = {"run_id": secrets.token_hex(16), "recipe": digest, "plan": plan.to_dict()}
    write_whole(path, json.dumps(known, indent=1) + "\n")
    return known


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {
            "run_id": str(known["run_id"]),
            "recipe": str(known["recipe"]),
            "plan": dict(known["plan"]),
        }
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise PrivacyError(
            f"{path} is damaged: nobody can say what this run promised. Begin a new run in "
            "another folder (-o)"
        ) from problem


def _refuse_missing(recipe: Recipe, ledger: Path, dataset: str, *, begun: bool) -> None:
    """Refuse a ledger that is missing, unless a run begins with one in its own folder.

    One that is gone took with it what was released, and its owner's budget.
    """
    if recipe.privacy.ledger:
        raise LedgerError.missing(ledger, dataset)
    if begun:
        raise LedgerError(
            f"the ledger {ledger} is gone, and with it what this run was charged. If it was moved, "
            "move it back: a run goes on with the ledger that it began with, and its own stays in "
            "its folder. Without it nobody can say what the data has given; a run that begins "
            "again in another folder (-o) does not count it"
        )
