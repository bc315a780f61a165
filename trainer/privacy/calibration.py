"""How much noise a claim needs: the smallest noise multiplier whose epsilon is low enough.

Epsilon falls as noise grows, so the multiplier is found between two that bracket it, on
logarithmic scales (false position), and rounded up to RESOLUTION. The figure that comes
out satisfies the claim by the same accountant that makes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import Event

# Multipliers are multiples of this.
RESOLUTION = 1e-4
# With more noise than this nothing is learned, with less nothing is protected.
LARGEST, SMALLEST = 1000.0, 0.1
_DECIMALS = 4
# Of the logarithms: a tenth of RESOLUTION where multipliers are about 1.
_TOLERANCE = 1e-5
# Log of what is found over what is asked for, by log of the multiplier; falls.
_Excess = Callable[[float], float]


def solve_noise_multiplier(
    event: Event, epsilon: float, delta: float, earlier: Sequence[Event] = ()
) -> float:
    """Return the noise multiplier with which `event` and `earlier` stay within the claim.

    Args:
        event: its noise multiplier is ignored.
        epsilon: of the claim.
        delta: of the claim.
        earlier: releases that the claim covers too.

    Returns:
        A multiple of RESOLUTION from SMALLEST on; the next smaller one would be too small.

    Raises:
        PrivacyError: no noise up to LARGEST is enough, or the earlier releases alone exceed
            the claim.
    """
    if earlier:
        spent = epsilon_pld(earlier, delta)
        if spent >= epsilon:
            raise PrivacyError(
                f"epsilon {epsilon:g} cannot be reached, for it is the total with what was "
                f"released before: earlier releases of this data come to {spent:.3f} at delta "
                f"{delta:.4g} already; ask for more, or use other data"
            )

    def excess(log_noise: float) -> float:
        noisy = dataclasses.replace(event, noise_multiplier=math.exp(log_noise))
        found = epsilon_pld((*earlier, noisy), delta)
        # Without any loss there is no logarithm; this is far below every epsilon.
        return math.log(max(found, 1e-9) / epsilon)

    low, high = _bracket(excess)
    if high > math.log(LARGEST):
        raise PrivacyError(
            f"epsilon {epsilon:g} at delta {delta:.4g} cannot be reached by {event.steps:,} "
            f"updates that each see {event.sampling_probability:.3g} of the data: a noise "
            f"multiplier of {LARGEST:g} would not be enough; make fewer updates, or smaller batches"
        )
    if low == high:
        return SMALLEST
    return _rounded_up(excess, _root(excess, low, high))


def _bracket(excess: _Excess) -> tuple[float, float]:
    """Return log multipliers that are too small and large enough, a factor of two apart.

    The second is above log(LARGEST) if none is large enough; both are log(SMALLEST) if
    that is enough already.
    """
    floor = math.log(SMALLEST)
    at, step = 0.0, math.log(2.0)
    if excess(at) > 0:
        while at <= math.log(LARGEST):
            at += step
            if excess(at) <= 0:
                return at - step, at
        return at, at + step
    while at > floor:
        at = max(floor, at - step)
        if excess(at) > 0:
            return at, at + step
    return floor, floor


def _root(excess: _Excess, low: float, high: float) -> float:
    """Return a log multiplier next to where the excess changes its sign.

    False position with the Illinois rule: an end that stays twice counts half.
    """
    at_low, at_high = excess(low), excess(high)
    stayed = 0
    while high - low > _TOLERANCE:
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        found = excess(middle)
        if abs(found) < _TOLERANCE / 10:
            return middle
        if found > 0:
            low, at_low = middle, found
            at_high = at_high / 2 if stayed > 0 else at_high
            stayed = 1
        else:
            high, at_high = middle, found
            at_low = at_low / 2 if stayed < 0 else at_low
            stayed = -1
    return low


def _rounded_up(excess: _Excess, log_noise: float) -> float:
    """Return the first multiple of RESOLUTION from here on that is large enough."""
    multiple = math.floor(math.exp(log_noise) / RESOLUTION)
    while excess(math.log(multiple * RESOLUTION)) > 0:
        multiple += 1
    return round(multiple * RESOLUTION, _DECIMALS)
