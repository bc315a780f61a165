"""How well a model knows each record of a data set: the scores that attacks rank by.

    a class of a text   log p - log(1 - p) of its label (Carlini et al. 2022, LiRA: unlike
                        the loss it tells a record that is known from one known by heart)
    tokens              the log-likelihood of all targets of the record

With a reference model, which has not seen the records, its score is taken off: some texts
are easy for everybody (calibration; Watson et al. 2022).

Nothing is written, and the network is left in the mode it was in. Only finite weights
give numbers; whoever uses the scores refuses others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.batch import IGNORED, Batch, DataSet
from trainer.data.loader import Sweep
from trainer.loop.batches import to_device
from trainer.models.generation import generating
from trainer.models.network import Network

# Told (records seen, records in all) after each batch.
Progress = Callable[[int, int], None]


def score_records(
    network: Network,
    dataset: DataSet,
    *,
    device: torch.device,
    reference: Network | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Return a score for each item of a data set, f64[N]; higher is known better.

    Args:
        network: on `device`, not wrapped.
        dataset: records with labels; its items as they are in epoch 0.
        device: where to compute.
        reference: on `device`, with the same labels or vocabulary; None takes nothing off.
        batch: records of one forward pass.
        progress: is told after each pass.
    """
    scores = np.zeros(len(dataset), dtype=np.float64)
    seen = 0
    with generating(network):
        for micro in Sweep(dataset, micro_sequences=batch):
            tensors = to_device(micro.batch, device)
            known = _scores(network, tensors)
            if reference is not None:
                with generating(reference):
                    known = known - _scores(reference, tensors)
            scores[[index for _, index in micro.items]] = known.cpu().numpy()
            seen += len(micro.items)
            if progress is not None:
                progress(seen, len(dataset))
    return scores


def _scores(network: Network, batch: Batch) -> Tensor:
    """Return f64[B]."""
    hidden, labels = network.hidden(batch), batch["labels"]
    if labels.dim() == 1:
        return _margins(network.logits(hidden).double(), labels)
    # Row by row: the logits of a whole batch over a vocabulary may not fit.
    rows = [_likelihood(network, *row) for row in zip(hidden, labels, strict=True)]
    return torch.stack(rows)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log p - log(1 - p) of the labels: f64[B] of f64[B, C]."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own.squeeze(1) - others.logsumexp(dim=1)


def _likelihood(network: Network, hidden: Tensor, labels: Tensor) -> Tensor:
    """Return the log-likelihood of the targets of one record, f64[]."""
    targets = labels != IGNORED
    logits = network.logits(hidden[targets]).double()
    chosen = logits.log_softmax(dim=-1).gather(1, labels[targets][:, None])
    return chosen.sum()
