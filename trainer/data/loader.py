"""The micro-batches of a training step, and one pass over a validation set.

The items of step s are those at positions [s*B, (s+1)*B) of the endless stream that
`order.item_at` defines, B being the global batch. They are cut into B / b micro-batches
of b items; rank r computes those whose number is r modulo the ranks. So the loader has
no state to save, and what a step sees does not depend on the number of ranks.

It refuses a batch that cannot be shared out evenly. Items are built ahead in one
background thread; an error there surfaces in the step that needed the item.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from trainer.data.batch import Batch, DataSet, HasLengths
from trainer.data.order import item_at
from trainer.data.prefetch import Prefetch
from trainer.errors import DataError, RecipeError

# Micro-batches that wait ready. Enough to hide a slow item, little memory.
_READY = 4
# Items that an error names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward pass takes.

    Attributes:
        step: the step it belongs to; 0 in a sweep.
        index: its number within the global batch, or within the sweep.
        batch: the tensors, on the CPU.
        items: (epoch, index) of each row. Empty for a filler: a batch that a rank gets
            so that all ranks run the same number of passes, and whose result counts
            for nothing.
    """

    step: int
    index: int
    # A tensor's repr would put token ids, which are text, into whatever prints this.
    batch: Batch = field(repr=False)
    items: tuple[tuple[int, int], ...]

    @property
    def counts(self) -> bool:
        """Whether the result is to be counted; False for a filler."""
        return bool(self.items)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the background thread needs: everything but the reader."""

    dataset: DataSet
    sequences: int
    micro_sequences: int
    seed: int
    rank: int
    world: int
    pin_memory: bool

    def items(self, step: int) -> list[tuple[int, int]]:
        size = len(self.dataset)
        first = step * self.sequences
        chosen = [item_at(self.seed, size, first + number) for number in range(self.sequences)]
        if isinstance(self.dataset, HasLengths):
            # Rows of like lengths share a micro-batch; ties keep the shuffled order.
            length = self.dataset.length
            chosen.sort(key=lambda item: length(item[1]))
        return chosen

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        items = self.items(step)
        for index in range(self.rank, self.sequences // self.micro_sequences, self.world):
            first = index * self.micro_sequences
            yield self.build(step, index, items[first : first + self.micro_sequences])

    def build(self, step: int, index: int, items: list[tuple[int, int]]) -> MicroBatch:
        batch = self.dataset.collate([self.dataset.item(*item) for item in items])
        if self.pin_memory:
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return MicroBatch(step, index, batch, tuple(items))

    def from_step(self, step: int) -> Iterator[MicroBatch]:
        while True:
            yield from self.micro_batches(step)
            step += 1


class Loader:
    """Gives this rank's micro-batches of any step, in order of their numbers.

    Args:
        dataset: what to learn from.
        sequences: items of the global batch.
        micro_sequences: items of one micro-batch.
        seed: of the order.
        rank: this rank.
        world: number of ranks.
        pin_memory: put the tensors where a GPU copies them from without waiting.

    Raises:
        RecipeError: the batch cannot be shared out evenly.
        DataError: the data set is empty.
    """

    def __init__(
        self,
        dataset: DataSet,
        *,
        sequences: int,
        micro_sequences: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if len(dataset) == 0:
            raise DataError("there is nothing to learn from: the data set has no items")
        if sequences % micro_sequences:
            raise RecipeError(
                f"batch.sequences ({sequences}) is no multiple of "
                f"batch.micro_sequences ({micro_sequences})"
            )
        self.micro_batches = sequences // micro_sequences
        if self.micro_batches % world:
            raise RecipeError(
                f"{sequences} sequences in micro-batches of {micro_sequences} make "
                f"{self.micro_batches} micro-batches, which {world} ranks cannot share evenly; "
                "choose batch.sequences as a multiple of batch.micro_sequences times the ranks"
            )
        self._plan = _Plan(dataset, sequences, micro_sequences, seed, rank, world, pin_memory)
        self._mine = self.micro_batches // world
        self._ahead: Prefetch[MicroBatch] | None = None
        self._next = (0, 0)

    def step(self, step: int) -> Iterator[MicroBatch]:
        """Yield this rank's micro-batches of a step.

        Steps asked for in order come from the background thread; any other step is
        allowed and starts the thread anew from there.

        Raises:
            DataError: an item could not be read; whatever else the data set raises.
        """
        if self._ahead is None or self._next != (step, 0):
            self.close()
            self._ahead = Prefetch(
                self._plan.from_step(step), capacity=_READY, name="casemate-loader"
            )
        for number in range(self._mine):
            # Written before the read: a step abandoned or failed half-way matches nothing.
            self._next = (step, number + 1)
            micro = next(self._ahead)
            if number + 1 == self._mine:
                self._next = (step + 1, 0)
            yield micro

    def where(self, micro: MicroBatch) -> str:
        """Return where the first few items of a micro-batch come from."""
        return describe_items(self._plan.dataset, micro)

    def close(self) -> None:
        """End the background thread; a later step starts another."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sweep:
    """One pass over a data set, for validation: every item once over all ranks.

    Every rank gets the same number of micro-batches, so that collectives match: a rank
    that would have one less gets a filler (`MicroBatch.counts` is False). Iterating
    again gives the same micro-batches.

    Args:
        dataset: what to go over, as it is in epoch 0.
        micro_sequences: items of one micro-batch; the last may have fewer.
        rank: this rank.
        world: number of ranks.
        limit: take only so many items, evenly spread over the set; 0 takes all.

    Raises:
        DataError: the data set is empty.
    """

    def __init__(
        self,
        dataset: DataSet,
        *,
        micro_sequences: int,
        rank: int = 0,
        world: int = 1,
        limit: int = 0,
    ) -> None:
        size = len(dataset)
        if size == 0:
            raise DataError("there is nothing to validate on: the data set has no items")
        count = min(limit, size) if limit else size
        indices = [number * size // count for number in range(count)]
        if isinstance(dataset, HasLengths):
            indices.sort(key=dataset.length)
        self._plan = _Plan(dataset, count, micro_sequences, 0, rank, world, False)
        self._groups = [
            [(0, index) for index in indices[first : first + micro_sequences]]
            for first in range(0, count, micro_sequences)
        ]

    def __len__(self) -> int:
        """Return the micro-batches of each rank, fillers included."""
        return math.ceil(len(self._groups) / self._plan.world)

    def __iter__(self) -> Iterator[MicroBatch]:
        plan = self._plan
        for turn in range(len(self)):
            index = turn * plan.world + plan.rank
            if index < len(self._groups):
                yield plan.build(0, index, self._groups[index])
            else:
                yield MicroBatch(0, index, plan.build(0, 0, self._groups[0]).batch, ())

    def where(self, micro: MicroBatch) -> str:
        """Return where the first few items of a micro-batch come from."""
        return describe_items(self._plan.dataset, micro)


def describe_items(dataset: DataSet, micro: MicroBatch) -> str:
    """Return where the first few items of a micro-batch come from, without their text."""
    named = "; ".join(dataset.where(*item) for item in micro.items[:_NAMED])
    more = len(micro.items) - _NAMED
    return f"{named}; and {more} more" if more > 0 else named
