"""Every layer's per-example gradients: against a loop, and against opacus where it has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm
from transformers.pytorch_utils import Conv1D

from trainer.privacy.errors import PrivacyError
from trainer.privacy.samplers import sampler_for

B, T, WIDTH = 4, 6, 8


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def ids() -> Tensor:
    return torch.randint(9, (B, T), generator=torch.Generator().manual_seed(6))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor, bool]] = {
    "linear": (lambda: nn.Linear(WIDTH, 5), numbers(B, T, WIDTH), True),
    "linear-of-vectors": (lambda: nn.Linear(WIDTH, 5), numbers(B, WIDTH), True),
    "linear-long": (lambda: nn.Linear(3, 2), numbers(B, 40, 3), True),
    "linear-4d": (lambda: nn.Linear(WIDTH, 5, bias=False), numbers(B, 2, 3, WIDTH), True),
    "conv1d-of-gpt2": (lambda: Conv1D(5, WIDTH), numbers(B, T, WIDTH), False),
    "table": (lambda: nn.Embedding(9, WIDTH), ids(), True),
    "table-with-padding": (lambda: nn.Embedding(9, WIDTH, padding_idx=2), ids(), False),
    "layer-norm": (lambda: nn.LayerNorm(WIDTH), numbers(B, T, WIDTH), True),
    "layer-norm-of-vectors": (lambda: nn.LayerNorm(WIDTH), numbers(B, WIDTH), True),
    "rms-norm": (lambda: nn.RMSNorm(WIDTH), numbers(B, T, WIDTH), True),
    "rms-norm-of-llama": (lambda: LlamaRMSNorm(WIDTH), numbers(B, T, WIDTH), False),
    "rms-norm-of-gemma": (lambda: GemmaRMSNorm(WIDTH), numbers(B, T, WIDTH), False),
    "rms-norm-of-t5": (lambda: T5LayerNorm(WIDTH), numbers(B, T, WIDTH), False),
    "convolution": (lambda: nn.Conv1d(WIDTH, 5, 3, padding=2), numbers(B, WIDTH, T), True),
    "convolution-groups": (
        lambda: nn.Conv1d(WIDTH, 4, 3, stride=2, groups=2),
        numbers(B, WIDTH, T),
        True,
    ),
    "group-norm": (lambda: nn.GroupNorm(2, WIDTH), numbers(B, WIDTH, T), True),
}


def layer_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    layer = LAYERS[kind][0]()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def sampled(layer: nn.Module, inputs: Tensor, backprops: Tensor) -> dict[str, Tensor]:
    wanted = {name for name, _ in layer.named_parameters()}
    factors = sampler_for(layer, "layer")(layer, inputs, backprops, wanted)
    for name, factor in factors.items():
        rows = factor.rows()
        norms = rows.flatten(1).norm(dim=1)
        assert torch.allclose(factor.squared_norms().sqrt(), norms, rtol=1e-5), name
    return {name: factor.rows() for name, factor in factors.items()}


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_a_loop(kind):
    layer, inputs = layer_of(kind), LAYERS[kind][1]
    output = layer(inputs)
    backprops = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    found = sampled(layer, inputs, backprops)
    assert found.keys() == dict(layer.named_parameters()).keys()
    for example in range(B):
        layer.zero_grad()
        layer(inputs[example : example + 1]).backward(backprops[example : example + 1])
        for name, parameter in layer.named_parameters():
            expected = parameter.grad
            assert expected is not None
            close = torch.allclose(found[name][example], expected, rtol=1e-4, atol=1e-5)
            assert close, (name, example)
            assert float(found[name][example].norm()) == pytest.approx(
                float(expected.norm()), rel=1e-5
            )


@pytest.mark.parametrize("kind", [kind for kind, (_, _, known) in LAYERS.items() if known])
def test_gradients_are_those_of_opacus(kind):
    layer, inputs = layer_of(kind), LAYERS[kind][1]
    hooked = GradSampleModule(layer_of(kind), batch_first=True, loss_reduction="sum")
    output = hooked(inputs)
    backprops = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    output.backward(backprops)
    found = sampled(layer, inputs, backprops)
    for name, parameter in hooked._module.named_parameters():
        assert torch.allclose(found[name], parameter.grad_sample, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("kind", LAYERS)
def test_only_what_is_wanted_is_computed(kind):
    layer, inputs = layer_of(kind), LAYERS[kind][1]
    backprops = torch.ones_like(layer(inputs))
    for name, _ in layer.named_parameters():
        found = sampler_for(layer, "layer")(layer, inputs, backprops, {name})
        assert found.keys() == {name}


def test_a_layer_without_a_gradient_of_each_example():
    with pytest.raises(PrivacyError, match=r"core\.pool is a Bilinear.*freeze it"):
        sampler_for(nn.Bilinear(3, 3, 3), "core.pool")


@pytest.mark.parametrize("option", [{"scale_grad_by_freq": True}, {"max_norm": 1.0}])
def test_a_table_that_mixes_examples(option):
    layer = nn.Embedding(9, WIDTH, **option)
    with pytest.raises(PrivacyError, match="mixes examples"):
        sampler_for(layer, "table")(layer, ids(), numbers(B, T, WIDTH), {"weight"})
