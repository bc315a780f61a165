"""The one object that everything of a private run derives from.

Sampler, clipping, noise, normalization and what is accounted for all read the plan, so
that they cannot disagree. It is made before the first update from the recipe and the
size of the data, which is public; nothing in it depends on a record.

    q = expected_batch / units        a unit is drawn for an update with this chance
    at most `cap` units               a larger draw is cut to a random subset
    sum of clipped gradients          one unit moves it by `sensitivity` at most
    + noise of noise_std              once, to the sum
    / normalizer                      public, the same for every update
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.privacy.accounting import Event
from trainer.recipe.schema import Recipe

# Two data sets are neighbours if one unit of the first counts nothing in the second.
NEIGHBOURING_RELATION = "zero-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """A private run, before it starts.

    Attributes:
        unit: "record" or "user".
        units: N, records or users of the training data.
        contributions: records of one user that are used at most; 1 for records.
        expected_batch: E[B] in units.
        cap: most units in a batch.
        steps: T, updates.
        noise_multiplier: sigma.
        clipping: "flat", "per-layer" or "automatic".
        clip_norm: most that one record adds to the sum, as an L2 norm. Automatic clipping
            normalizes to below 1, so it is 1 there.
        noise: "gaussian" or "discrete".
        delta: of the claim.
        epsilon: the claim by PLD: this run, tuning runs and earlier releases together.
        tuning_runs: runs like this one that count and are in no ledger.
        earlier: releases of the same data that the ledger holds.
    """

    unit: str
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
        """Return JSON types, what derives included."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PrivacyPlan:
        """Read what `to_dict` wrote; strict.

        Raises:
            PrivacyError: a key is missing or foreign, a type is wrong, or what derives
                does not follow from the rest.
        """
        raise NotImplementedError


def make_plan(recipe: Recipe, units: int, earlier: Sequence[Event] = ()) -> PrivacyPlan:
    """Derive the plan of a recipe for so many units, solving for the noise where asked.

    Raises:
        PrivacyError: naming what cannot be claimed, and what would help.
    """
    raise NotImplementedError
