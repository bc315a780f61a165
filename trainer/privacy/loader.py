"""The micro-batches of private updates: a secret draw, shared out evenly over the ranks.

    with a draw of 100 records, micro-batches of at most 32 and 2 ranks:
    4 micro-batches of 25 rows, two for each rank

Rank 0 alone draws; it tells the others, who have no coins of their own to disagree with.
Every rank runs the same number of micro-batches of the same number of rows, and at least
one, however small the draw: what is missing is filled with rows of weight 0, which must
add nothing to the sum of gradients. So no rank ever waits for a collective that another
has left out, and an empty draw is an update like any other (of noise alone).

The draw must stay secret: nothing here writes it to a log, a repr or an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import Batch, DataSet, HasLengths
from trainer.distribution.group import Group
from trainer.errors import RecipeError
from trainer.privacy.errors import PrivacyError
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.randomness import SecretGenerator
from trainer.privacy.sampling import TruncatedPoisson


@dataclass(frozen=True, slots=True)
class PrivateMicroBatch:
    """What one forward pass of a private update takes.

    Attributes:
        index: its number within the update, over all ranks.
        batch: the tensors, on the CPU.
        weights: f32[rows], on the CPU: 1 for a record that was drawn, 0 for a filler.
        items: (epoch, index) of the records that were drawn, in the order of their rows;
            fillers come after them and are not listed.
    """

    index: int
    # Neither records nor who was drawn may reach whatever prints this.
    batch: Batch = field(repr=False)
    weights: Tensor = field(repr=False)
    items: tuple[tuple[int, int], ...] = field(repr=False)


class PrivateLoader:
    """Gives this rank's micro-batches of private updates.

    Args:
        dataset: the records.
        groups: for each user the indices of their records; None if a record is the unit.
        plan: N, q, the cap and how many records of a user are used.
        micro_sequences: most records of one forward pass.
        group: the ranks.
        pin_memory: put the tensors where a GPU copies them from without waiting.

    Raises:
        PrivacyError: the plan is not one for this data.
        RecipeError: micro-batches without a record were asked for.
    """

    def __init__(
        self,
        dataset: DataSet,
        groups: Sequence[Sequence[int]] | None,
        plan: PrivacyPlan,
        micro_sequences: int,
        group: Group,
        *,
        pin_memory: bool = False,
    ) -> None:
        raise NotImplementedError

    def step(self, step: int) -> Iterator[PrivateMicroBatch]:
        """Draw, and yield this rank's micro-batches: at least one.

        Every rank calls this together; the draw is made (and told) before the first one
        is given. Asked for the same step again, it draws again.

        Args:
            step: updates made before; it is the epoch of the items, so it chooses their
                augmentation.
        """
        raise NotImplementedError
