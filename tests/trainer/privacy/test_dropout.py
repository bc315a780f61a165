from __future__ import annotations

import pytest
import torch

from tests.trainer.models.networks import KINDS, make, make_batch
from trainer.privacy.dropout import switch_dropout_off


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_pass_is_the_same_whatever_was_drawn_before(kind: str) -> None:
    network = make(kind, dropout=0.5).train()
    switch_dropout_off(network)
    batch = make_batch(kind)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network.zero_grad()
        outputs = network(batch)
        outputs.square().sum().backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        found.append([outputs.detach(), *gradients])
    assert len(found[0]) > 1
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
