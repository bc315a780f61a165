"""What a sequence of releases reveals at most: epsilon for delta, by three accountants.

The claim is the privacy loss distribution's (PLD: Koskela et al. 2020; Doroshenko et al.
2022, "Connect the dots"; dp-accounting). It is an upper bound: its discretization errs
on the safe side. Beside it stand Renyi accounting (RDP: Mironov 2017; dp-accounting) and
the privacy random variables of Gopi et al. 2021 (PRV; opacus), as a check by other code.

The neighbouring relation is zero-out: two data sets are neighbours if one unit of the
first counts nothing in the second, and their sizes are equal. Sizes are public then.

A truncated Poisson batch (Event.cap) is accounted for by PLD alone (Ganesh et al. 2025,
arXiv 2508.15089); the two others know no truncation and are given the sampler without
it. A sampler that is not Poisson gets the bound without amplification from all three.

Every function takes one event or several, and a fraction of a second to a few seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import SAMPLERS, Event, compose
from trainer.privacy.prv import epsilons_prv

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

__all__ = [
    "DELTAS",
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

# Where a curve is drawn unless deltas are given: half decades.
DELTAS = tuple(10.0 ** (exponent / 2) for exponent in range(-18, -5))
# Grid of privacy losses: a tenth of what one update loses (root mean square) overstates
# epsilon by less than 0.1%; these bound time and memory.
_FINEST, _COARSEST = 1e-5, 1e-3
_LOSSES_A_CELL = 10.0
# Above this, exp(1 / sigma^2) is beyond any grid that will be chosen.
_LARGEST_EXPONENT = 50.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Epsilon for several deltas, by each accountant.

    Attributes:
        deltas: rising.
        pld: the claim; inf without noise.
        rdp: beside it.
        prv: beside it; None where opacus gives no figure.
    """

    deltas: tuple[float, ...]
    pld: tuple[float, ...]
    rdp: tuple[float, ...]
    prv: tuple[float | None, ...]


def epsilon_pld(events: Events, delta: float) -> float:
    """Return the smallest epsilon that can be claimed for delta.

    It is inf without noise, and where losses are so large (epsilon in the hundreds) that
    the grid does not hold them.

    Raises:
        PrivacyError: delta is not above 0 and below 1.
    """
    _check_delta(delta)
    composed = _composed(_several(events))
    return math.inf if composed is None else _epsilon(composed, delta)


def delta_for(events: Events, epsilon: float) -> float:
    """Return the smallest delta that can be claimed for epsilon, by PLD; 1 without noise."""
    composed = _composed(_several(events))
    return 1.0 if composed is None else float(composed.get_delta_for_epsilon(epsilon))


def epsilon_rdp(events: Events, delta: float) -> float:
    """Return epsilon by Renyi accounting, which is never tighter; inf without noise.

    Raises:
        PrivacyError: delta is not above 0 and below 1.
    """
    return _rdp(_several(events), (delta,))[0]


def _rdp(events: Sequence[Event], deltas: Sequence[float]) -> tuple[float, ...]:
    """Return Renyi accounting's epsilon for each delta."""
    import dp_accounting as dpa
    from dp_accounting.rdp import RdpAccountant

    for delta in deltas:
        _check_delta(delta)
    if any(event.noise_multiplier == 0 for event in events):
        return (math.inf,) * len(deltas)
    accountant = RdpAccountant(neighboring_relation=dpa.NeighboringRelation.REPLACE_SPECIAL)
    with _quiet():
        for event in events:
            q, count = _seen(event)
            noise = dpa.GaussianDpEvent(event.noise_multiplier)
            accountant.compose(noise if q == 1 else dpa.PoissonSampledDpEvent(q, noise), count)
    return tuple(max(0.0, float(accountant.get_epsilon(delta))) for delta in deltas)


def epsilon_prv(events: Events, delta: float) -> float | None:
    """Return epsilon by opacus's PRV accountant, its error bound of 0.005 included.

    None where it has no figure: a delta too small for its floats, or hardly any loss. The
    error bound grows with epsilons above 10, for which its grid would become too fine.

    Raises:
        PrivacyError: delta is not above 0 and below 1.
    """
    return _prv(_several(events), (delta,))[0]


def _prv(events: Sequence[Event], deltas: Sequence[float]) -> tuple[float | None, ...]:
    """Return opacus's epsilon for each delta, rising."""
    rough = _rdp(events, deltas)
    if not events or math.isinf(rough[0]):
        return rough
    history = [(event.noise_multiplier, *_seen(event)) for event in events]
    return epsilons_prv(history, deltas, rough)


def curve(events: Events, deltas: Sequence[float] = DELTAS) -> Curve:
    """Return epsilon(delta) by the three accountants.

    Raises:
        PrivacyError: a delta is not above 0 and below 1.
    """
    several = _several(events)
    rising = tuple(sorted(deltas))
    composed = _composed(several)
    rdp = _rdp(several, rising)
    return Curve(
        deltas=rising,
        pld=tuple(math.inf if composed is None else _epsilon(composed, d) for d in rising),
        rdp=rdp,
        prv=_prv(several, rising),
    )


def steps_within(earlier: Events, event: Event, epsilon: float, delta: float) -> int:
    """Return how many updates of `event`'s kind may follow `earlier` within (epsilon, delta).

    At most event.steps, and 0 if not even one. For a budget: asked once, then counted.

    Raises:
        PrivacyError: delta is not above 0 and below 1.
    """
    _check_delta(delta)
    before = _several(earlier)
    width = _grid((*before, event))
    spent, single = _composed(before, width), _single(event, width)
    if spent is None or single is None:
        return 0
    # Only the number of updates changes below; a Gaussian that is not sampled composes alike.
    allowed, refused = 0, event.steps + 1
    trial = event.steps
    while refused - allowed > 1:
        total = spent.compose(single.self_compose(_seen(event.of(trial))[1]))
        if _epsilon(total, delta) <= epsilon:
            allowed = trial
        else:
            refused = trial
        trial = (allowed + refused) // 2
    return allowed


# -- privacy loss distributions ----------------------------------------------------


def _several(events: Events) -> tuple[Event, ...]:
    return compose((events,) if isinstance(events, Event) else events)


def _seen(event: Event) -> tuple[float, int]:
    """Return with which probability a unit is in a batch, and of how many batches.

    Without secret coins it is surely in one batch an epoch; if nothing is known, in all.
    """
    if event.sampler == "poisson":
        return event.sampling_probability, event.steps
    if event.sampler == "epochs":
        # Rounded first: 100 updates of a fifth of the data are 20 epochs, not 21.
        return 1.0, math.ceil(round(event.sampling_probability * event.steps, 6))
    return 1.0, event.steps


def _composed(events: Sequence[Event], width: float = 0.0) -> PrivacyLossDistribution | None:
    """Return the privacy loss distribution of all events, or None if one has no noise."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    width = width or _grid(events)
    total = pld.identity(value_discretization_interval=width)
    for event in events:
        single = _single(event, width)
        if single is None:
            return None
        count = _seen(event)[1]
        total = total.compose(single.self_compose(count) if count > 1 else single)
    return total


def _single(event: Event, width: float) -> PrivacyLossDistribution | None:
    """Return the privacy loss distribution of one batch, or None without noise."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    if event.noise_multiplier == 0:
        return None
    q, _ = _seen(event)
    options: dict[str, Any] = {
        "value_discretization_interval": width,
        "neighboring_relation": NeighboringRelation.REPLACE_SPECIAL,
    }
    if event.sampler == "poisson" and event.cap is not None and event.truncates:
        return pld.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=event.units,
            sampling_probability=q,
            truncated_batch_size=event.cap,
            noise_multiplier=event.noise_multiplier,
            **options,
        )
    return pld.from_gaussian_mechanism(event.noise_multiplier, sampling_prob=q, **options)


def _grid(events: Sequence[Event]) -> float:
    """Return the width of the cells that privacy losses are counted in.

    One update's loss varies by about q sqrt(exp(1 / sigma^2) - 1); cells far wider than
    that would overstate epsilon, by a factor where q is small.
    """
    squares = updates = 0.0
    for event in events:
        if event.noise_multiplier == 0:
            continue
        q, count = _seen(event)
        exponent = min(event.noise_multiplier**-2, _LARGEST_EXPONENT)
        squares += count * q**2 * math.expm1(exponent)
        updates += count
    if not updates:
        return _COARSEST
    return min(_COARSEST, max(_FINEST, math.sqrt(squares / updates) / _LOSSES_A_CELL))


def _epsilon(composed: PrivacyLossDistribution, delta: float) -> float:
    return max(0.0, float(composed.get_epsilon_for_delta(delta)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the log that some Renyi orders do not converge; they are left out."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise PrivacyError(f"delta is {delta:g}; it is a chance above 0 and below 1")
