"""Private updates as the loop sees them: prepare, begin, update, keep, account.

prepare   plant canaries, make the plan           (trainer.privacy.preparation)
begin     open the ledger, announce the updates
update    charge, then move the weights           (trainer.privacy.update)
keep      the ledger's head, so that a ledger that was cut is noticed on resume
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from trainer.data.assemble import silent
from trainer.distribution.group import Group
from trainer.distribution.wrap import release_weights
from trainer.errors import CheckpointError
from trainer.loop.assembly import Assembly
from trainer.loop.batches import autocast, to_device
from trainer.loop.interrupts import StopReason
from trainer.loop.step import Step
from trainer.loop.update import UpdateResult
from trainer.models.memory import estimate_memory
from trainer.privacy.checks import check_private, plan_warnings
from trainer.privacy.clipping import Clipping, ClippingKind
from trainer.privacy.concluding import conclude
from trainer.privacy.cost import meaningless_batch, time_pass, timing
from trainer.privacy.dropout import switch_dropout_off
from trainer.privacy.errors import PrivacyError
from trainer.privacy.gradients import PerExampleGradients
from trainer.privacy.ledger import read_ledger
from trainer.privacy.ledger_state import Head
from trainer.privacy.loader import PrivateLoader
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.preparation import begin, ledger_of, prepare
from trainer.privacy.releases import Releases
from trainer.privacy.standing import (
    Standing,
    claimed_of,
    delta_words,
    figures_of,
    standing_with,
    words_of,
)
from trainer.privacy.start import refuse_known_start
from trainer.privacy.update import PrivateUpdater
from trainer.recipe.parse import LoadedRecipe

_KEPT = "privacy"
# Records of the pass that tells how long a run takes.
_PROBE_ROWS = 8


class PrivateUpdates:
    """See `trainer.loop.updates.Updates`.

    Args:
        loaded: a recipe with privacy.
        output: the run folder.
        group: the ranks.
        parts: the network, sharded by FSDP or not; not wrapped by DDP, whose sums of
            gradients have no place here.
        tell: is told of what takes long.

    Raises:
        PrivacyError: the run cannot be claimed or accounted for; nothing was charged.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        output: Path,
        group: Group,
        parts: Assembly,
        tell: Callable[[str], None] = silent,
    ) -> None:
        recipe = loaded.recipe
        if not isinstance(parts.module, Step):
            raise PrivacyError("private training makes its own sums over ranks: no wrapper may")
        # What cannot be claimed leaves neither a plan nor a ledger behind.
        warnings = check_private(recipe, parts.network, parts.data)
        ledger, dataset = ledger_of(loaded, output)
        warnings += refuse_known_start(
            recipe.model.source, parts.data.sources, ledger=ledger, dataset=dataset
        )
        self._prepared = prepare(loaded, output, group, parts.data, tell)
        self.plan = self._prepared.plan
        self.steps = self.plan.steps
        self.train = self._prepared.train
        self._group = group
        self._recipe = recipe
        self._parts = parts
        self._gradients = PerExampleGradients(parts.module, parts.network, _clipping(self.plan))
        users = self._prepared.groups
        groups = None if users is None else [records.tolist() for records in users]
        self._loader = PrivateLoader(
            self.train,
            groups,
            self.plan,
            parts.micro_sequences,
            group,
            pin_memory=group.device.type == "cuda",
        )
        self._releases: Releases | None = None
        self._updater: PrivateUpdater | None = None
        self._tell = tell
        standing = self._standing() if group.is_first else ()
        tell("measuring how long a private pass takes")
        self.notes = (
            *(f"warning: {each}" for each in (*warnings, *plan_warnings(recipe, self.plan))),
            *self._ignored(),
            describe(self.plan, recipe.privacy.canaries),
            *(f"ledger: {each}" for each in standing),
            self._cost(),
        )

    def _standing(self) -> tuple[str, ...]:
        """Return in words what was released of the data before, and what remains."""
        prepared, options = self._prepared, self._recipe.privacy
        standing = Standing(None, prepared.dataset)
        # The run's own ledger holds others' releases where a run by another recipe was cut.
        if options.ledger or self.plan.earlier:
            self._tell("working out what remains of the budget")
            standing = standing_with(
                prepared.ledger,
                read_ledger(prepared.ledger),
                prepared.dataset,
                options.unit,
                options.users_by,
                without=prepared.run_id,
            )
        figures = figures_of(standing, self.plan, solved=not options.noise_multiplier)
        return words_of(figures, self.plan.epsilon)

    def _ignored(self) -> tuple[str, ...]:
        if self._recipe.model.dropout <= 0:
            return ()
        return ("model.dropout is not applied: in private training nothing may be dropped out",)

    def _cost(self) -> str:
        """Return in words what the run will take of memory and time, from one pass made here."""
        recipe, parts, device = self._recipe, self._parts, self._group.device
        vocabulary = parts.data.tokenizer.vocabulary_size
        memory = estimate_memory(recipe, vocabulary, world=self._group.world).total
        rows, length = min(parts.micro_sequences, _PROBE_ROWS), recipe.data.sequence_length
        switch_dropout_off(parts.module)
        batch = meaningless_batch(parts.network, recipe.objective.kind, rows, length, device)
        seconds = time_pass(
            self._gradients, batch, device, autocast(recipe.precision.dtype, device)
        )
        release_weights(parts.module)
        taken = timing(
            self.plan,
            basis="measured",
            rows=rows,
            pass_seconds=seconds,
            trained=parts.size.trainable,
            world=self._group.world,
        )
        return (
            f"about {memory / 2**20:,.0f} MiB a rank and {taken.seconds / 60:,.1f} min, by a pass "
            f"of {rows} records of full length that took {seconds:.2g} s"
        )

    def begin(self, step: int, kept: Mapping[str, Any] | None) -> None:
        """Open the ledger and announce what is left; see `Updates`.

        Raises:
            BudgetExhausted, LedgerError: as `preparation.begin`.
            CheckpointError: the checkpoint is of a run without privacy.
        """
        head = None if kept is None else _head_in(kept)
        if step == 0:
            self._check_gradients()
        self._releases = begin(self._prepared, self._group, step=step, head=head)
        self._updater = PrivateUpdater(
            module=self._parts.module,
            network=self._parts.network,
            gradients=self._gradients,
            optimizers=self._parts.optimizers,
            loader=self._loader,
            plan=self.plan,
            releases=self._releases,
            group=self._group,
            options=self._recipe.optimizer,
            seed=self._recipe.run.seed,
            autocast=autocast(self._recipe.precision.dtype, self._group.device),
        )

    def _check_gradients(self) -> None:
        """Look once, before anything is charged, whether records can be told apart."""
        switch_dropout_off(self._parts.module)
        rows = min(2, len(self.train))
        batch = self.train.collate([self.train.item(0, index) for index in range(rows)])
        self._gradients.check(to_device(batch, self._group.device))

    def update(self, step: int, *, wants_stop: StopReason = "") -> UpdateResult:
        """See `Updates`; `begin` goes first."""
        if self._updater is None:
            raise PrivacyError("an update was asked for before the ledger was opened")
        return self._updater.update(step, wants_stop=wants_stop)

    def keep(self) -> dict[str, Any]:
        """See `Updates`."""
        state = None if self._releases is None else self._releases.state()
        return {_KEPT: state}

    def exported(self, final: Path, step: int) -> dict[str, Any]:
        """Write privacy.json and privacy.html, and say what was claimed; see `Updates`.

        Raises:
            PrivacyError: the report cannot be made.
        """
        parts = self._recipe.parts
        trained = parts.adapter if parts.adapter != "none" else "all weights that are not frozen"
        self._tell("accounting for the claim")
        report = conclude(
            final,
            plan=self.plan,
            steps=step,
            ledger=self._prepared.ledger,
            run_id=self._prepared.run_id,
            dataset=self._prepared.dataset,
            optimizer=self._recipe.optimizer.name,
            trained=trained,
            trained_parameters=self._parts.size.trainable,
            canaries_digest=self._prepared.canaries_digest,
        )
        return {"privacy": claimed_of(report, final, self._prepared.ledger)}

    def close(self) -> None:
        """See `Updates`."""
        if self._releases is not None:
            self._releases.close()


def _head_in(kept: Mapping[str, Any]) -> Head:
    try:
        return Head(int(kept[_KEPT]["lines"]), str(kept[_KEPT]["link"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise CheckpointError(
            "the checkpoint does not say where its ledger stood: no private run made it"
        ) from problem


def _clipping(plan: PrivacyPlan) -> Clipping:
    for kind in get_args(ClippingKind):
        if kind == plan.clipping:
            return Clipping(kind, plan.clip_norm)
    raise PrivacyError(f"the plan names a clipping that is none: {plan.clipping!r}")


def describe(plan: PrivacyPlan, canaries: int = 0) -> str:
    """Return the plan in a line, for people."""
    planted = f" ({canaries:,} of them canaries)" if canaries else ""
    delta = delta_words(plan.delta, plan.units)
    return (
        f"private: epsilon {plan.epsilon:.4g} at delta {delta} for a {plan.unit}; each of "
        f"{plan.units:,} {plan.unit}s{planted} is drawn with chance "
        f"{plan.sampling_probability:.4g} for each of {plan.steps:,} updates of "
        f"{plan.expected_batch:,} (at most {plan.cap:,}); noise multiplier "
        f"{plan.noise_multiplier:.4g}, over the batch {plan.noise_to_batch_ratio:.3g}"
    )
