"""How far an audit can reach: the bound that so many canaries show with every guess right.

One training is enough for an audit in one run; each canary does what a training of its own
would do in an audit by many runs. What decides is their number, which is fixed before the
training, and the delta of the claim: with 2 x canaries x delta grows what a guess may be right
by a failure of the claim alone. So more canaries help up to a point, and beyond it they hurt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trainer.privacy.audit.one_run import GUESSED_SHARES, refuted_epsilon

CONFIDENCE: Final = 0.95
# Below the first an audit counts as none (security.bundle.claim); beyond the last it takes long.
_NUMBERS: Final = (100, 200, 500, 1_000, 2_000, 5_000, 10_000)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a number of canaries could show.

    Attributes:
        canaries: how many.
        ceiling: the largest epsilon that an audit with them could prove.
    """

    canaries: int
    ceiling: float


def reach_of(canaries: int, delta: float, confidence: float = CONFIDENCE) -> Reach:
    """Return what so many canaries could show at a delta, all guesses right.

    Args:
        canaries: planted or left out, two or more.
        delta: of the claim.
        confidence: of the bound.
    """
    error = (1 - confidence) / len(GUESSED_SHARES)
    half = canaries // 2
    guesses = {max(1, round(share * half)) + max(1, round(share * (canaries - half)))
               for share in GUESSED_SHARES}  # fmt: skip
    return Reach(
        canaries, max(refuted_epsilon(canaries, each, each, delta, error) for each in guesses)
    )


def canaries_for(epsilon: float, delta: float, confidence: float = CONFIDENCE) -> Reach:
    """Return the fewest canaries that could contradict a claim, or those that reach furthest.

    Args:
        epsilon: of the claim.
        delta: of the claim.
        confidence: of the bound.
    """
    best = reach_of(_NUMBERS[0], delta, confidence)
    for number in _NUMBERS[1:]:
        if best.ceiling > epsilon:
            return best
        found = reach_of(number, delta, confidence)
        if found.ceiling < best.ceiling:
            return best
        best = found
    return best
