"""One release of data through a noised sum: what accountants account for.

An event says how records (or users) are drawn, how many updates there are and how much
noise each has. It holds nothing of the data but its size. Whatever an event does not
promise is not used: a sampler that is not Poisson gets no amplification by sampling.

Invariants: an event that exists has been checked; `from_dict(event.to_dict()) == event`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.privacy.errors import PrivacyError

# How units get into a batch.
#   poisson    each unit by a secret coin of its own, anew for every update
#   epochs     in a fixed or shuffled order, each unit once an epoch
#   unknown    nothing is promised: every unit counts as seen by every update
SAMPLERS = ("poisson", "epochs", "unknown")
_KEYS = ("units", "sampling_probability", "noise_multiplier", "steps", "cap", "sampler")


@dataclass(frozen=True, slots=True)
class Event:
    """Updates of one kind, one after another.

    Attributes:
        units: records or users in the data set; public.
        sampling_probability: q, the chance of a unit to be in the batch of an update (for
            "epochs": the share of the data in a batch).
        noise_multiplier: standard deviation of the noise over the most that one unit can
            add to the sum; 0 is no noise, and an infinite epsilon.
        steps: updates, at least 1.
        cap: most units in a batch; a larger draw is cut to a random subset. None: no limit.
        sampler: one of SAMPLERS.

    Raises:
        PrivacyError: values that describe no mechanism.
    """

    units: int
    sampling_probability: float
    noise_multiplier: float
    steps: int
    cap: int | None = None
    sampler: str = "poisson"

    def __post_init__(self) -> None:
        if self.units < 1:
            raise PrivacyError(f"an event over {self.units} units accounts for nothing")
        if not 0 < self.sampling_probability <= 1:
            raise PrivacyError(
                f"a sampling probability of {self.sampling_probability:g} is not above 0 and at "
                "most 1"
            )
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise PrivacyError(
                f"a noise multiplier of {self.noise_multiplier:g} is no number from 0 on"
            )
        if self.steps < 1:
            raise PrivacyError(f"an event of {self.steps} updates accounts for nothing")
        if self.cap is not None and self.cap < 1:
            raise PrivacyError(f"a batch of at most {self.cap} units can be drawn by nobody")
        if self.sampler not in SAMPLERS:
            raise PrivacyError(f"the sampler {self.sampler!r} is none of {', '.join(SAMPLERS)}")

    @property
    def truncates(self) -> bool:
        """Whether the cap can ever cut a batch."""
        return self.cap is not None and self.cap < self.units

    def of(self, steps: int) -> Event:
        """Return the same mechanism for another number of updates."""
        return dataclasses.replace(self, steps=steps)

    def without_amplification(self) -> Event:
        """Return what can be claimed when units are not drawn by secret coins.

        Every unit is then seen once an epoch, which is what shuffled batches do.
        """
        return dataclasses.replace(self, sampler="epochs", cap=None)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {key: getattr(self, key) for key in _KEYS}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        """Read what `to_dict` wrote; strict.

        Raises:
            PrivacyError: a key is missing or foreign, or a value has the wrong type.
        """
        if set(data) != set(_KEYS):
            raise PrivacyError(f"an event has the keys {', '.join(_KEYS)} and no others")
        for key in ("units", "steps"):
            _check_type(key, data[key], int)
        if data["cap"] is not None:
            _check_type("cap", data["cap"], int)
        for key in ("sampling_probability", "noise_multiplier"):
            _check_type(key, data[key], int, float)
        _check_type("sampler", data["sampler"], str)
        return cls(
            units=data["units"],
            sampling_probability=float(data["sampling_probability"]),
            noise_multiplier=float(data["noise_multiplier"]),
            steps=data["steps"],
            cap=data["cap"],
            sampler=data["sampler"],
        )


def compose(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return the same releases with equal mechanisms counted together, in order of first use."""
    counted: dict[Event, int] = {}
    for event in events:
        mechanism = event.of(1)
        counted[mechanism] = counted.get(mechanism, 0) + event.steps
    return tuple(mechanism.of(steps) for mechanism, steps in counted.items())


def _check_type(key: str, value: Any, *types: type) -> None:
    if isinstance(value, bool) or not isinstance(value, types):
        raise PrivacyError(f"{key} of an event is {type(value).__name__}, not {types[-1].__name__}")
