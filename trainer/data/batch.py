"""What data sets give and what networks take.

An item is one sequence or one example as numpy arrays; a batch is several of them as
torch tensors on the CPU. Text-level keys, shapes B (sequences), T and S (tokens):

    language model       input_ids, labels i64[B,T]; labels[t] is the target of position t
    masked               the same; labels are IGNORED where nothing is masked
    with boundaries      also document_ids, position_ids i64[B,T], only in a batch where a
                         sequence holds more than one document
    sequence pairs       input_ids, attention_mask i64[B,S]; decoder_input_ids, labels i64[B,T]
    classification       input_ids, attention_mask i64[B,T]; labels i64[B]; for pairs of texts
                         also token_type_ids i64[B,T]
    tagging              input_ids, attention_mask, labels i64[B,T]
    contrastive          input_ids, attention_mask, pair_input_ids, pair_attention_mask

Invariant: an item is a pure function of the data set, the epoch and the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
import torch

Batch = dict[str, torch.Tensor]
Item = dict[str, npt.NDArray[Any]]

# A label that is no target: torch's default ignore_index.
IGNORED = -100


class DataSet(Protocol):
    """Items that can be had in any order, again and again, from any thread."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits that change with any item."""
        ...

    def __len__(self) -> int:
        """Return the number of items of an epoch, the same for every epoch."""
        ...

    def item(self, epoch: int, index: int) -> Item:
        """Return an item; `epoch` chooses its noise or where windows are cut."""
        ...

    def where(self, epoch: int, index: int) -> str:
        """Return where an item comes from (file and line, or tokens), without its text."""
        ...

    def collate(self, items: Sequence[Item]) -> Batch:
        """Return several items as one batch, padded to the longest where they differ."""
        ...


@runtime_checkable
class HasLengths(Protocol):
    """A data set whose items differ in length; batches of like lengths pad less."""

    def length(self, index: int) -> int:
        """Return the tokens of an item before noise, without building it."""
        ...


@runtime_checkable
class HasBytes(Protocol):
    """A data set of running text, for which bits per byte can be told."""

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of the text for each token; None where tokens do not hold all of it."""
        ...
