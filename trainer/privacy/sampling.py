"""Which units take part in an update: truncated Poisson sampling.

Every unit (a record, or a user with all that is theirs) is drawn by a secret coin of its
own, anew for every update; a draw of more than `cap` units is cut to a uniformly random
subset. This is the sampler that the accountants' amplification is proved for (Ganesh et
al. 2025, arXiv 2508.15089): a shuffled data set is not, whatever its batches look like.

Nothing repeats a draw: there is no seed, and an update that is made again after a crash
draws again (and is charged again).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.privacy.errors import PrivacyError
from trainer.privacy.randomness import SecretGenerator


class TruncatedPoisson:
    """Draws the units of each update.

    Args:
        units: N, units of the data set.
        probability: q, the chance of a unit to be drawn, above 0 and at most 1.
        cap: most units of a batch; None does not cut.
        generator: the secret coins.

    Raises:
        PrivacyError: values that describe no sampler.
    """

    def __init__(
        self, units: int, probability: float, cap: int | None, generator: SecretGenerator
    ) -> None:
        if units < 1:
            raise PrivacyError(f"nothing can be drawn from {units} units")
        if not 0.0 < probability <= 1.0:
            raise PrivacyError(
                f"a sampling probability of {probability!r} is not above 0 and at most 1"
            )
        if cap is not None and cap < 1:
            raise PrivacyError(f"a batch of at most {cap} units can be drawn by nobody")
        self._units = units
        self._probability = probability
        self._cap = units if cap is None else cap
        self._generator = generator

    def draw(self) -> npt.NDArray[np.int64]:
        """Return the units of one update, ascending: from none to `cap` of them."""
        # 1. A coin for each unit, whatever the others show.
        drawn = np.flatnonzero(self._generator.coins(self._units, self._probability))
        # 2. Cut what is too many to a random subset, whoever they are.
        if drawn.size > self._cap:
            drawn = drawn[self._generator.subset(drawn.size, self._cap)]
        return drawn.astype(np.int64)
