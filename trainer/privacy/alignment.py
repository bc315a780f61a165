"""Which rows of a layer's tensors belong to which example.

Nearly everywhere the examples are the first dimension. Two places differ: tables of
positions look up one row of ids for all examples, and objectives over tokens give the
output layer a flat list of tokens (all of them, or those that have a target).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.batch import IGNORED, Batch
from trainer.privacy.errors import PrivacyError


def examples_in(batch: Batch) -> int:
    """Return the number of examples of a batch."""
    return len(batch["input_ids"])


def repeat_ids(ids: Tensor, examples: int) -> Tensor:
    """Return ids [B, T] where a table was given one row of them, [1, T], for all examples."""
    return ids.expand(examples, *ids.shape[1:]) if len(ids) == 1 else ids


@dataclass(frozen=True, slots=True)
class Alignment:
    """Puts the examples first.

    Attributes:
        examples: B.
        labels: int64 [B, T] where a target belongs to each token; None otherwise.
    """

    examples: int
    labels: Tensor | None

    @staticmethod
    def of(batch: Batch) -> Alignment:
        """Return the alignment of a batch."""
        labels = batch.get("labels")
        by_token = labels is not None and labels.dim() == 2
        return Alignment(examples_in(batch), labels if by_token else None)

    def align(self, values: Tensor, name: str, *, flat: bool) -> Tensor:
        """Return values with the examples first.

        Args:
            values: [B, ...], or [N, D] where tokens lie in one list.
            name: of the layer, for the message.
            flat: this layer takes a flat list of tokens.

        Returns:
            [B, ...], or [B, U, D] with zeros where an example has fewer than U tokens.

        Raises:
            PrivacyError: the examples cannot be told apart.
        """
        if flat and values.dim() == 2 and self.labels is not None:
            return self._from_tokens(values, self.labels, name)
        if len(values) != self.examples:
            raise PrivacyError(
                f"{name} sees {len(values)} rows for {self.examples} examples, so that its "
                "gradient cannot be told apart by example; freeze it"
            )
        return values

    def _from_tokens(self, values: Tensor, labels: Tensor, name: str) -> Tensor:
        if len(values) == labels.numel():
            return values.view(*labels.shape, -1)
        chosen = (labels != IGNORED).flatten().nonzero().squeeze(1)
        if len(values) != len(chosen):
            raise PrivacyError(
                f"{name} sees {len(values)} tokens, and the batch has {len(chosen)} targets; "
                "set objective.softmax to 'full'"
            )
        example = chosen // labels.shape[1]
        count = torch.bincount(example, minlength=self.examples)
        place = torch.arange(len(chosen), device=chosen.device)
        place = place - (count.cumsum(0) - count)[example]
        room = int(count.max()) if len(chosen) else 0
        aligned = values.new_zeros(self.examples, room, values.shape[-1])
        aligned[example, place] = values
        return aligned
