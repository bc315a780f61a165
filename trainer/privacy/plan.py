"""The one object that everything of a private run derives from.

Sampler, clipping, noise, normalization and what is accounted for all read the plan, so
that they cannot disagree. It is made before the first update from the recipe and the
size of the data, which is public; nothing in it depends on a record.

    q = expected_batch / units        a unit is drawn for an update with this chance
    at most `cap` units               a larger draw is cut to a random subset; it is rare
    sum of clipped gradients          one unit moves it by `sensitivity` at most
    + noise of noise_std              once, to the sum
    / normalizer                      public, the same for every update
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.privacy.accounting import Event, epsilon_pld
from trainer.privacy.calibration import solve_noise_multiplier
from trainer.privacy.errors import PrivacyError
from trainer.recipe.schema import PrivacyOptions, Recipe

# Two data sets are neighbours if one unit of the first counts nothing in the second.
NEIGHBOURING_RELATION = "zero-out"
# What `to_dict` writes besides the attributes.
_DERIVED = (
    "sampling_probability",
    "sensitivity",
    "noise_std",
    "normalizer",
    "noise_to_batch_ratio",
)
_FEWEST_UNITS = 2
# A batch exceeds its expected size by so many standard deviations once in 10^8 draws or so.
_DEVIATIONS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """A private run, before it starts.

    Attributes:
        unit: "record" or "user".
        user_field: of the data, what tells users apart; "" where the unit is a record.
        units: N, records or users of the training data.
        contributions: records of one user that are used at most; 1 for records.
        expected_batch: E[B] in units.
        cap: most units in a batch.
        steps: T, updates.
        noise_multiplier: sigma.
        clipping: "flat", "per-layer" or "automatic".
        clip_norm: C, the most that one record adds to the sum, as an L2 norm; automatic
            clipping brings every record just below it.
        noise: "gaussian" or "discrete".
        delta: of the claim.
        epsilon: the claim by PLD: this run, tuning runs and earlier releases together.
        tuning_runs: runs like this one that count and are in no ledger of their own; the
            ledger is charged for them when this run begins.
        earlier: releases of the same data that the ledger holds.
    """

    unit: str
    user_field: str
    units: int
    contributions: int
    expected_batch: int
    cap: int
    steps: int
    noise_multiplier: float
    clipping: str
    clip_norm: float
    noise: str
    delta: float
    epsilon: float
    tuning_runs: int = 0
    earlier: tuple[Event, ...] = ()

    @property
    def sampling_probability(self) -> float:
        """q: the chance of a unit to be drawn for an update."""
        return self.expected_batch / self.units

    @property
    def sensitivity(self) -> float:
        """The most that one unit adds to the sum of clipped gradients, as an L2 norm."""
        return self.clip_norm * self.contributions

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise that is added to each coordinate of the sum."""
        return self.noise_multiplier * self.sensitivity

    @property
    def normalizer(self) -> float:
        """What the noised sum is divided by: the records of an expected batch."""
        return float(self.expected_batch * self.contributions)

    @property
    def noise_to_batch_ratio(self) -> float:
        """noise_multiplier / expected_batch: what the loss of a private run follows."""
        return self.noise_multiplier / self.expected_batch

    @property
    def step_event(self) -> Event:
        """One update, as the ledger is charged with it."""
        return self.event.of(1)

    @property
    def event(self) -> Event:
        """All updates of this run."""
        return Event(
            units=self.units,
            sampling_probability=self.sampling_probability,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps,
            cap=self.cap,
        )

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything that the claim covers: this run, tuning runs, earlier releases."""
        return (*self.earlier, self.event.of(self.steps * (1 + self.tuning_runs)))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types: the attributes, and what derives from them, for reading."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data["earlier"] = [event.to_dict() for event in self.earlier]
        data["neighbouring_relation"] = NEIGHBOURING_RELATION
        return {**data, **{name: getattr(self, name) for name in _DERIVED}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PrivacyPlan:
        """Read what `to_dict` wrote; strict.

        Raises:
            PrivacyError: a key is missing or foreign, a type is wrong, or what derives
                does not follow from the rest.
        """
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        expected = {*fields, *_DERIVED, "neighbouring_relation"}
        if set(data) != expected:
            odd = ", ".join(sorted(set(data) ^ expected))
            raise PrivacyError(f"a privacy plan lacks keys, or has foreign ones: {odd}")
        if not isinstance(data["earlier"], list):
            raise PrivacyError("'earlier' of a privacy plan is no list of events")
        values = {name: _checked(name, data[name], str(kind)) for name, kind in fields.items()}
        values["earlier"] = tuple(Event.from_dict(event) for event in data["earlier"])
        plan = cls(**values)
        written = plan.to_dict()
        for name in expected - set(fields):
            if data[name] != written[name]:
                raise PrivacyError(
                    f"{name} of a privacy plan is {data[name]!r}, and {written[name]!r} follows "
                    "from the rest"
                )
        return plan


def _checked(name: str, value: Any, kind: str) -> Any:
    types = {"int": (int,), "float": (int, float), "str": (str,)}
    if kind in types and (isinstance(value, bool) or not isinstance(value, types[kind])):
        raise PrivacyError(f"{name} of a privacy plan is {type(value).__name__}, not {kind}")
    return float(value) if kind == "float" else value


def make_plan(recipe: Recipe, units: int, earlier: Sequence[Event] = ()) -> PrivacyPlan:
    """Derive the plan of a recipe for so many units, solving for the noise where asked.

    Takes up to some seconds, for the accountant.

    Args:
        recipe: its sections privacy, batch and run.
        units: N, records or users that are trained on.
        earlier: releases of the same data by others than this run.

    Raises:
        PrivacyError: naming what cannot be claimed, and what would help.
    """
    options, batch = recipe.privacy, recipe.batch.sequences
    delta = _delta(options, units)
    if batch > units:
        raise PrivacyError(
            f"batch.sequences is {batch:,}, the expected number of {options.unit}s in a batch, but "
            f"the data has {units:,}; a batch is a random part of the data, and a tenth of it is "
            f"a good one: batch.sequences={max(1, units // 10)} (a multiple of "
            "batch.micro_sequences, which batch.micro_sequences=0 leaves to the trainer)"
        )
    steps = recipe.run.steps
    if options.max_epochs:
        steps = int(options.max_epochs * units / batch)
        if steps < 1:
            raise PrivacyError(
                f"privacy.max_epochs = {options.max_epochs:g} is less than one batch of {batch:,} "
                f"out of {units:,}; raise it or take smaller batches"
            )
    event = Event(
        units=units,
        sampling_probability=batch / units,
        noise_multiplier=options.noise_multiplier,
        steps=steps * (1 + options.tuning_runs),
        cap=_cap(units, batch, options.truncation),
    )
    event, epsilon = _settled(event, options, delta, earlier)
    return PrivacyPlan(
        unit=options.unit,
        user_field=options.users_by,
        units=units,
        contributions=options.contributions if options.unit == "user" else 1,
        expected_batch=batch,
        cap=event.cap or units,
        steps=steps,
        noise_multiplier=event.noise_multiplier,
        clipping=options.clipping,
        clip_norm=options.clip_norm,
        noise=options.noise,
        delta=delta,
        epsilon=epsilon,
        tuning_runs=options.tuning_runs,
        earlier=tuple(earlier),
    )


def _cap(units: int, batch: int, truncation: float) -> int:
    """Return the most units of a batch: `truncation` times the expected number.

    Small batches vary by more than that. Cutting them often would cost a good part of the
    claim (a cut makes the units of a batch depend on one another), so they may be larger
    by a few standard deviations.
    """
    deviation = math.sqrt(batch * (1 - batch / units))
    limit = max(truncation * batch, batch + _DEVIATIONS * deviation)
    return min(units, math.ceil(round(limit, 6)))


def _settled(
    event: Event, options: PrivacyOptions, delta: float, earlier: Sequence[Event]
) -> tuple[Event, float]:
    """Return the event with its noise, and the epsilon of it and all before."""
    given = options.noise_multiplier
    noise = given or solve_noise_multiplier(event, options.epsilon, delta, earlier)
    event = dataclasses.replace(event, noise_multiplier=noise)
    epsilon = epsilon_pld((*earlier, event), delta)
    if given and epsilon > options.epsilon:
        counted = ["this run"]
        counted += ["its tuning runs"] if options.tuning_runs else []
        counted += ["what its ledger holds already"] if earlier else []
        raise PrivacyError(
            f"privacy.noise_multiplier = {given:g} is too little noise: epsilon is {epsilon:.3f} "
            f"at delta {delta:.4g} for {' and '.join(counted)}, more than privacy.epsilon = "
            f"{options.epsilon:g}; set it to 0 to have it solved for"
        )
    return event, epsilon


def _delta(options: PrivacyOptions, units: int) -> float:
    """Return the delta of the claim: half of 1/N unless the recipe says one."""
    if units < _FEWEST_UNITS:
        raise PrivacyError(
            f"the data has {units} {options.unit}s; nothing can be learned privately from fewer "
            f"than {_FEWEST_UNITS}"
        )
    if options.delta > 1 / units:
        raise PrivacyError(
            f"privacy.delta is {options.delta:.6g}, larger than 1/{units:,} ({1 / units:.6g}), one "
            f"over the {options.unit}s of the data: such a claim allows a {options.unit} to be "
            f"published outright; take {0.5 / units:.4g} or less, or 0 for half of 1/{units:,}"
        )
    return options.delta or 0.5 / units
