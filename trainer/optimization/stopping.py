"""When to stop: validation has not improved for long enough.

The state is a few numbers that go into a checkpoint as JSON. It never looks at the
clock or at training losses, so a resumed run stops where an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainer.errors import CheckpointError


class EarlyStopping:
    """Counts validations since the best one.

    Attributes:
        best: the smallest validation loss seen, in nats per target; None before the first.
        waited: validations since then.
    """

    def __init__(self, patience: int) -> None:
        """`patience`: validations without a better loss before stopping; 0 never stops."""
        self._patience = patience
        self.best: float | None = None
        self.waited = 0

    def update(self, loss: float) -> bool:
        """Take note of a validation; return whether it is the best so far.

        A loss that is no number is never the best. Equal is not better.
        """
        if not math.isnan(loss) and (self.best is None or loss < self.best):
            self.best = loss
            self.waited = 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether `patience` validations in a row were no better."""
        return self._patience > 0 and self.waited >= self._patience

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs, as JSON values."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; the patience stays the recipe's.

        Raises:
            CheckpointError: the state is not one of ours.
        """
        best, waited = state.get("best"), state.get("waited")
        numeric = best is None or (isinstance(best, int | float) and not isinstance(best, bool))
        if not numeric or not isinstance(waited, int) or isinstance(waited, bool) or waited < 0:
            raise CheckpointError(
                "the early-stopping state of the checkpoint is not a best loss and a count; "
                "resume from an earlier checkpoint"
            )
        self.best = None if best is None else float(best)
        self.waited = waited
