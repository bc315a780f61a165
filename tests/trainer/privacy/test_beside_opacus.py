"""A whole network in opacus's hooks gives the sums that ours do, where it can run it."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from tests.trainer.models.networks import make
from tests.trainer.privacy.naive import distance, labelled_batch, objective_step
from trainer.data.batch import Batch
from trainer.models.network import Network
from trainer.models.parts import apply_parts
from trainer.privacy.clipping import Clipping
from trainer.privacy.gradients import PerExampleGradients
from trainer.recipe.schema import PartsOptions

CLIP_NORM = 0.2


def sums_of_opacus(network: Network, batch: Batch) -> dict[str, Tensor]:
    """Sums of flatly clipped gradients, from the gradients that opacus writes out."""
    hooked = GradSampleModule(network, batch_first=True, loss_reduction="sum")
    logits = hooked(batch)
    nn.functional.cross_entropy(logits, batch["labels"], reduction="sum").backward()
    samples: dict[str, Tensor] = {
        name: parameter.grad_sample
        for name, parameter in hooked._module.named_parameters()
        if parameter.requires_grad
    }
    flat = torch.cat([values.flatten(1) for values in samples.values()], dim=1)
    factors = (CLIP_NORM / flat.norm(dim=1)).clamp(max=1)
    return {name: torch.einsum("b,b...", factors, values) for name, values in samples.items()}


@pytest.mark.parametrize("adapter", ["lora", "bitfit"])
@pytest.mark.parametrize("kind", ["encoder-classifier", "encoder-mean-classifier"])
def test_sums_are_those_of_opacus(kind: str, adapter: str) -> None:
    def build() -> Network:
        network = apply_parts(make(kind), PartsOptions(adapter=adapter, lora_rank=3))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return network.train()

    batch = labelled_batch(kind)
    expected = sums_of_opacus(build(), batch)
    step = objective_step(kind, build())
    computed = PerExampleGradients(step, step.network, Clipping("flat", CLIP_NORM))
    assert computed.accumulate(batch, torch.ones(4)).clipped > 0
    assert distance(computed.take(), expected) < 3e-5
