"""The micro-batches of private updates: a secret draw, shared out evenly over the ranks.

    a draw of 100 records, in micro-batches of 32 at most, on 2 ranks:
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
        if micro_sequences < 1:
            raise RecipeError(f"micro-batches of {micro_sequences} records hold nothing")
        self._dataset = dataset
        self._groups = None if groups is None else _bounded(groups, plan, len(dataset))
        units = len(dataset) if self._groups is None else len(self._groups)
        if units != plan.units:
            raise PrivacyError(
                f"the plan is for {plan.units:,} {plan.unit}s and the data has {units:,}; its "
                "claim would not hold. Make the plan anew"
            )
        self._micro_sequences = micro_sequences
        self._group = group
        self._pin_memory = pin_memory
        # Only rank 0 has coins: ranks that drew for themselves could draw differently.
        self._sampler = (
            TruncatedPoisson(units, plan.sampling_probability, plan.cap, SecretGenerator())
            if group.is_first
            else None
        )

    def step(self, step: int) -> Iterator[PrivateMicroBatch]:
        """Draw, and yield this rank's micro-batches: at least one.

        Every rank calls this together; the draw is made (and told) before the first one
        is given. Asked for the same step again, it draws again.

        Args:
            step: updates made before; it is the epoch of the items, so it chooses their
                augmentation.

        Raises:
            DataError: an item could not be read.
        """
        # 1. Rank 0 draws units; the others are told.
        drawn = None if self._sampler is None else self._sampler.draw().tolist()
        units: list[int] = self._group.broadcast(drawn)
        # 2. Every rank cuts the same records into the same micro-batches.
        records = self._records(units)
        rounds = max(1, math.ceil(len(records) / (self._micro_sequences * self._group.world)))
        micro_batches = rounds * self._group.world
        rows = max(1, math.ceil(len(records) / micro_batches))
        # 3. Each takes its share of them.
        for index in range(self._group.rank, micro_batches, self._group.world):
            mine = [(step, record) for record in records[index * rows : (index + 1) * rows]]
            yield self._build(index, mine, rows)

    def _records(self, units: list[int]) -> list[int]:
        """Return the records of some units; records of like lengths side by side."""
        if self._groups is None:
            records = units
        else:
            records = [record for unit in units for record in self._groups[unit]]
        if isinstance(self._dataset, HasLengths):
            records = sorted(records, key=self._dataset.length)
        return records

    def _build(self, index: int, items: list[tuple[int, int]], rows: int) -> PrivateMicroBatch:
        # A filler repeats a record that is there anyway; its weight of 0 is what counts.
        filler = items[-1] if items else (0, 0)
        padded = [*items, *[filler] * (rows - len(items))]
        built = {item: self._dataset.item(*item) for item in dict.fromkeys(padded)}
        batch = self._dataset.collate([built[item] for item in padded])
        weights = torch.zeros(rows, dtype=torch.float32)
        weights[: len(items)] = 1.0
        if self._pin_memory:
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
            weights = weights.pin_memory()
        return PrivateMicroBatch(index, batch, weights, tuple(items))


def _bounded(
    groups: Sequence[Sequence[int]], plan: PrivacyPlan, records: int
) -> tuple[tuple[int, ...], ...]:
    """Return the records of each user that are used: the first `plan.contributions`.

    The first, because that depends on nothing but the user's own records.

    Raises:
        PrivacyError: a record is of two users, or of none of the data set's.
    """
    seen: set[int] = set()
    for group in groups:
        for record in group:
            if not 0 <= record < records:
                raise PrivacyError(f"there is no record {record} among {records:,}")
            if record in seen:
                raise PrivacyError(
                    f"the record {record} is given to two users (or twice to one), so leaving "
                    "one of them out would not leave it out"
                )
            seen.add(record)
    return tuple(tuple(group[: plan.contributions]) for group in groups)
