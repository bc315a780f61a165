"""Exact integers of the discrete Gaussian distribution, quickly.

P(x) is proportional to exp(-x^2 / (2 s^2)) over all integers x. The sampler is that of
Canonne, Kamath and Steinke ("The Discrete Gaussian for Differential Privacy", 2020,
algorithms 1 to 3): a discrete Laplace value, kept with a chance that corrects it.

All of its randomness is coins that are True with chance exp(-x) for a rational x, and
those are exact although most of the work is done in float64: such a coin asks whether a
uniform real number u is below p = exp(-x). The first 64 bits of u decide, unless they are
so close to p that an error of float64 (bounded with a wide margin) or the bits not drawn
could matter, which happens about once in 2^38 coins. Then p is computed to as many digits,
and u drawn to as many bits, as it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from trainer.privacy.errors import PrivacyError
from trainer.privacy.randomness import SecretGenerator

Integers = npt.NDArray[np.int64]

# Above, values would not stay exact in float64; below, every value would be 0.
MAX_DEVIATION: Final = 2.0**40
MIN_DEVIATION: Final = 2.0**-4
# Errors of exp(-x) * 2^64 as computed here stay below 2^20: x is off by 2^-45 at most
# where exp(-x) is not below 2^-64 anyway, exp by a few units in the last place, and a
# word as float64 by 2^10. This is 32 times as much.
_MARGIN: Final = 2.0**25
_WORDS: Final = 2.0**64
# Values drawn in one round: their arrays fit the cache.
_ROUND: Final = 1 << 15
# Decimal digits to start with where float64 does not do: more than 128 bits.
_DIGITS: Final = 45


def discrete_gaussian(generator: SecretGenerator, count: int, deviation: float) -> Integers:
    """Return `count` independent values of the discrete Gaussian distribution, i64.

    About 0.3 microseconds a value on one core.

    Args:
        generator: the secret coins.
        count: how many.
        deviation: s, from MIN_DEVIATION to MAX_DEVIATION; taken as the exact rational
            number that the float is.

    Raises:
        PrivacyError: the deviation is out of range.
    """
    if not MIN_DEVIATION <= deviation <= MAX_DEVIATION:
        raise PrivacyError(
            f"discrete noise with a deviation of {deviation!r} grid steps cannot be drawn; it "
            f"is from {MIN_DEVIATION:g} to {MAX_DEVIATION:g}"
        )
    variance = Fraction(deviation) ** 2
    # Algorithm 3: a Laplace value of this scale is proposed, ...
    scale = math.floor(deviation) + 1
    centre = variance / scale
    # ... and kept with chance exp(-(|x| - s^2/scale)^2 / (2 s^2)).
    chance = _ExpCoins(
        lambda x: (np.abs(x) - float(centre)) ** 2 / (2.0 * float(variance)),
        lambda x: (abs(x) - centre) ** 2 / (2 * variance),
    )
    out = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        proposed = _laplace(generator, min(_ROUND, 4 * (count - filled) + 16), scale)
        kept = proposed[chance.toss(generator, proposed)][: count - filled]
        out[filled : filled + kept.size] = kept
        filled += kept.size
    return out


def _laplace(generator: SecretGenerator, tries: int, scale: int) -> Integers:
    """Return values x with P(x) proportional to exp(-|x| / scale), about half of `tries`.

    Algorithm 2 of the paper: x = u + scale * v with a random sign; u is uniform below the
    scale and kept with chance exp(-u / scale), v counts coins of chance 1/e.
    """
    chance = _ExpCoins(lambda u: u / scale, lambda u: Fraction(u, scale))
    low = generator.below(tries, scale)
    low = low[chance.toss(generator, low)]
    high = np.zeros_like(low)
    running = np.arange(low.size)
    while running.size:
        running = running[_ONE_OVER_E.toss(generator, high[running])]
        high[running] += 1
    values = low + scale * high
    negative = generator.coins(values.size, 0.5)
    # Zero has one sign only: else it would be drawn twice as often.
    chosen = ~(negative & (values == 0))
    signed: Integers = np.where(negative, -values, values)[chosen]
    return signed


class _ExpCoins:
    """Coins that are True with chance exp(-x), where x >= 0 depends on an integer.

    Args:
        rough: x for many integers, in float64.
        exact: x for one.
    """

    def __init__(
        self,
        rough: Callable[[Integers], npt.NDArray[np.float64]],
        exact: Callable[[int], Fraction],
    ) -> None:
        self._rough = rough
        self._exact = exact

    def toss(self, generator: SecretGenerator, values: Integers) -> npt.NDArray[np.bool_]:
        """Return one coin for each of the integers."""
        words = generator.words(values.size)
        over = np.exp(-self._rough(values)) * _WORDS - words.astype(np.float64)
        coins = over > 0.0
        for place in np.flatnonzero(np.abs(over) <= _MARGIN):
            exponent = self._exact(int(values[place]))
            coins[place] = is_below_exp(generator, int(words[place]), exponent)
        return coins


_ONE_OVER_E: Final = _ExpCoins(lambda v: np.ones(v.size), lambda _: Fraction(1))


def is_below_exp(generator: SecretGenerator, word: int, exponent: Fraction) -> bool:
    """Return whether a uniform real number in [0, 1) is below exp(-exponent), exactly.

    Args:
        generator: of further bits.
        word: the first 64 bits of the number.
        exponent: at least 0.
    """
    bits, digits = 64, _DIGITS
    while True:
        # exp is rounded to the nearest; the quotient's error of half a unit in its last
        # place becomes one of about `exponent` such units.
        context = Context(prec=digits, Emin=MIN_EMIN, Emax=MAX_EMAX)
        quotient = context.divide(Decimal(-exponent.numerator), Decimal(exponent.denominator))
        chance = Fraction(context.exp(quotient))
        error = chance * (exponent + 2) / 10 ** (digits - 1)
        if Fraction(word + 1, 1 << bits) <= chance - error:
            return True
        if Fraction(word, 1 << bits) >= chance + error:
            return False
        word = (word << 64) | int(generator.words(1)[0])
        bits += 64
        digits += 20
