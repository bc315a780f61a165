"""Measures whether an architecture keeps the documents of one sequence apart.

Which code of transformers respects a mask of pairs is not written anywhere: attention does,
convolutions and state spaces between the attention layers do not. So it is tried: what
stands in one document must not change the states of another, and a document must get
the states that it has alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.models.network import Network
from trainer.models.transformer import TransformerNetwork

# Of the largest state: rounding is far below, a leak even through fresh weights above.
_ROUNDING = 1e-6
_ALONE = 1e-4


def measure_documents(network: Network) -> None:
    """Set `keeps_documents` of a network whose architecture was not built here.

    Weights, mode and the global random state stay as they are.
    """
    if not isinstance(network, TransformerNetwork) or network.keeps_documents:
        return
    if network.family == "seq2seq" or network.level != "token":
        return
    training = network.training
    network.eval()
    # For the time of the measurement: else the family would refuse to try.
    network.keeps_documents = True
    try:
        network.keeps_documents = _keeps_apart(network)
    except Exception:
        # What a class does with a mask that it does not know has no bound; none is as good.
        network.keeps_documents = False
    finally:
        network.train(training)


@torch.no_grad()
def _keeps_apart(network: TransformerNetwork) -> bool:
    ordinary = [i for i in range(min(network.vocabulary_size, 24)) if i != network.pad]
    if len(ordinary) < 4:
        return False
    ids = torch.tensor([(ordinary * 8)[:8]])
    other = ids.flip(1)
    states = _packed(network, ids)
    limit = float(states.abs().max())
    for mixed, same in (
        (torch.cat([other[:, :4], ids[:, 4:]], 1), slice(4, 8)),
        (torch.cat([ids[:, :4], other[:, 4:]], 1), slice(0, 4)),
    ):
        changed = (_packed(network, mixed)[:, same] - states[:, same]).abs().max()
        if not float(changed) <= _ROUNDING * limit:
            return False
    alone = network.hidden({"input_ids": ids[:, 4:]})
    return float((alone - states[:, 4:]).abs().max()) <= _ALONE * limit


def _packed(network: TransformerNetwork, ids: Tensor) -> Tensor:
    """Return the states of two documents of four tokens in one sequence."""
    documents = torch.tensor([[0] * 4 + [1] * 4])
    positions = torch.arange(4).repeat(2)[None]
    batch = {"input_ids": ids, "document_ids": documents, "position_ids": positions}
    return network.hidden(batch)
