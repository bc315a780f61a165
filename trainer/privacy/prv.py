"""Epsilon by privacy random variables (Gopi et al. 2021), with opacus's code.

Composing is the dear part, so it is done once, as wide as the smallest delta wants it and as
fine as the smallest epsilon does, and every delta is read off the one composition. Each
figure includes the error that this leaves.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

# opacus adds its error to the figure; below 0.02 it can tell two claims apart.
_ERROR = 0.005
_ERROR_GROWS_FROM = 10.0
# Of the smallest delta: opacus's own choice.
_DELTA_ERROR = 1e-3


def epsilons_prv(
    history: Sequence[tuple[float, float, int]], deltas: Sequence[float], rough: Sequence[float]
) -> tuple[float | None, ...]:
    """Return epsilon for each delta; None where opacus has no figure.

    Args:
        history: noise multiplier, sampling probability and number of some updates, each.
        deltas: rising.
        rough: a finite upper bound on epsilon for each delta.
    """
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(history)
    error = _ERROR * max(1.0, rough[-1] / _ERROR_GROWS_FROM)
    delta_error = _DELTA_ERROR * deltas[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # What `get_epsilon` does anew for each delta.
            composed = accountant._get_dprv(eps_error=error, delta_error=delta_error)
        except (RuntimeError, ValueError):
            # The smallest delta may be too small; the others are not.
            rest = epsilons_prv(history, deltas[1:], rough[1:]) if len(deltas) > 1 else ()
            return (None, *rest)
        return tuple(_upper(composed, delta, delta_error, error) for delta in deltas)


def _upper(composed: Any, delta: float, delta_error: float, error: float) -> float | None:
    try:
        found = float(composed.compute_epsilon(delta, delta_error, error)[2])
    except (RuntimeError, ValueError):
        return None
    return found if math.isfinite(found) else None
