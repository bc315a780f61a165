"""What a network says of each single target of a data set: its loss, and whether it is right.

`network` adds such figures up; here they stay apart, so that two models can be compared on
the very same targets, and by group. Every item is seen once, without noise of training.
Networks that compare items with one another (contrastive) have no such figures and are
refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.batch import IGNORED, DataSet
from trainer.data.loader import Sweep
from trainer.errors import DataError, DivergenceError, RecipeError
from trainer.evaluation.network import Progress
from trainer.loop.batches import to_device
from trainer.models.generation import generating
from trainer.models.network import Network


@dataclass(frozen=True, slots=True)
class Targets:
    """Figures of M targets, in the order of the items of a data set.

    Attributes:
        items: i64[M], the item that each belongs to; rising.
        labels: i64[M], the class or token that is right.
        losses: f64[M], negative log-likelihood in nats.
        right: bool[M], whether the likeliest class or token was the right one.
    """

    items: NDArray[np.int64]
    labels: NDArray[np.int64]
    losses: NDArray[np.float64]
    right: NDArray[np.bool_]


def score_targets(
    network: Network,
    dataset: DataSet,
    *,
    device: torch.device,
    batch: int = 16,
    progress: Progress | None = None,
) -> Targets:
    """Return the figures of every target of a data set.

    Args:
        network: on `device`, not wrapped; left in the mode it was in.
        dataset: its items as they are in epoch 0.
        device: where to compute.
        batch: items of one forward pass.
        progress: is told (items seen, items in all) after each pass.

    Raises:
        RecipeError: items have no targets of their own.
        DataError: there is no target at all.
        DivergenceError: the weights give no numbers.
    """
    if "labels" not in dataset.collate([dataset.item(0, 0)]):
        raise RecipeError("pairs of texts are told from one another: no example has a loss alone")
    parts: list[tuple[Tensor, ...]] = []
    seen = 0
    with generating(network):
        for micro in Sweep(dataset, micro_sequences=batch):
            tensors = to_device(micro.batch, device)
            hidden, labels = network.hidden(tensors), tensors["labels"]
            if labels.dim() == 1:
                labels, hidden = labels[:, None], hidden[:, None]
            for (_, item), states, truth in zip(micro.items, hidden, labels, strict=True):
                parts.append(_row(network, item, states, truth))
            seen += len(micro.items)
            if progress is not None:
                progress(seen, len(dataset))
    parts.sort(key=lambda part: int(part[0]))
    return _together(parts)


def _row(network: Network, item: int, states: Tensor, truth: Tensor) -> tuple[Tensor, ...]:
    """Return item, labels, losses and right answers of the targets of one item, on the CPU."""
    chosen = truth != IGNORED
    labels = truth[chosen]
    # Row by row: the logits of a whole batch over a vocabulary may not fit.
    chances = network.logits(states[chosen]).double().log_softmax(dim=-1)
    losses = -chances.gather(-1, labels[:, None]).squeeze(-1)
    right = chances.argmax(dim=-1) == labels
    return (torch.tensor(item), labels.cpu(), losses.cpu(), right.cpu())


def _together(parts: list[tuple[Tensor, ...]]) -> Targets:
    labels, losses, right = (torch.cat([part[at] for part in parts]) for at in (1, 2, 3))
    if labels.numel() == 0:
        raise DataError("the data has no targets to measure on")
    if not bool(losses.isfinite().all()):
        raise DivergenceError("the weights give no numbers: a loss is infinite or none")
    sizes = torch.tensor([part[1].numel() for part in parts])
    items = torch.stack([part[0] for part in parts]).repeat_interleave(sizes)
    return Targets(items.numpy(), labels.numpy(), losses.numpy(), right.numpy())
