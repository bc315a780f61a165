"""What a sequence of releases reveals at most: epsilon for delta, by three accountants.

The claim is the privacy loss distribution's (PLD: Koskela et al. 2020; Doroshenko et al.
2022, "Connect the dots"; dp-accounting). It is an upper bound whose discretization is
pessimistic. Beside it stand Renyi accounting (RDP: Mironov 2017; dp-accounting) and the
privacy random variables of Gopi et al. 2021 (PRV; opacus), as a check by other code.

The neighbouring relation is zero-out: two data sets are neighbours if one unit of the
first counts nothing in the second, and their sizes are equal. Sizes are public then.

A truncated Poisson batch (Event.cap) is accounted for by PLD alone (Ganesh et al. 2025,
arXiv 2508.15089); the two others know no truncation and are given the sampler without
it, which at 1.2 times an expected batch of some hundred and more is the same to the
third digit. A sampler that is not Poisson gets the bound without amplification from all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.privacy.event import SAMPLERS, Event, compose

__all__ = [
    "SAMPLERS",
    "Curve",
    "Event",
    "compose",
    "curve",
    "delta_for",
    "epsilon_pld",
    "epsilon_prv",
    "epsilon_rdp",
    "steps_within",
]
Events = Event | Iterable[Event]


@dataclass(frozen=True, slots=True)
class Curve:
    """Epsilon for several deltas, by each accountant.

    Attributes:
        deltas: rising.
        pld: the claim.
        rdp, prv: beside it; None where an accountant gives no figure.
    """

    deltas: tuple[float, ...]
    pld: tuple[float, ...]
    rdp: tuple[float | None, ...]
    prv: tuple[float | None, ...]


def epsilon_pld(events: Events, delta: float) -> float:
    """Return the smallest epsilon that can be claimed for delta; inf without noise.

    Raises:
        PrivacyError: delta is not above 0 and below 1.
    """
    raise NotImplementedError


def delta_for(events: Events, epsilon: float) -> float:
    """Return the smallest delta that can be claimed for epsilon, by PLD."""
    raise NotImplementedError


def epsilon_rdp(events: Events, delta: float) -> float:
    """Return epsilon by Renyi accounting: never below the claim."""
    raise NotImplementedError


def epsilon_prv(events: Events, delta: float) -> float | None:
    """Return epsilon by opacus's PRV accountant, or None where it has no figure."""
    raise NotImplementedError


def curve(events: Events, deltas: Sequence[float] = ()) -> Curve:
    """Return epsilon(delta) by the three accountants; () takes 1e-9 to 1e-3."""
    raise NotImplementedError


def steps_within(earlier: Events, event: Event, epsilon: float, delta: float) -> int:
    """Return how many updates of `event`'s kind may follow `earlier` within (epsilon, delta).

    At most event.steps; 0 if not even one. For a budget: asked once, then only counted.
    """
    raise NotImplementedError
