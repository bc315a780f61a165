"""What a layer's input and the gradient of its output say about each of its weights.

A sampler takes a layer, its input and the gradient of its output, both with the examples
along the first dimension, and returns the per-example gradients of those weights that
are trained. Here are those of linear layers (GPT-2's Conv1D too), tables, and norms with
and without a mean; for convolutions and group norms opacus's own are used. A layer of
another kind is refused when it has a weight to train.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainer.privacy.errors import PrivacyError
from trainer.privacy.factors import Factor, Rows, lookup, outer

# (layer, input, gradient of the output, names of the weights to train) -> gradients
Sampler = Callable[[Any, Tensor, Tensor, Collection[str]], dict[str, Factor]]


def linear(
    layer: nn.Module, inputs: Tensor, backprops: Tensor, wanted: Collection[str]
) -> dict[str, Factor]:
    """y = W x + b, W [O, I]."""
    del layer
    return affine(inputs, backprops, wanted)


def affine(
    inputs: Tensor,
    backprops: Tensor,
    wanted: Collection[str],
    *,
    weight: str = "weight",
    bias: str = "bias",
) -> dict[str, Factor]:
    """Gradients of a matrix [O, I] and a bias [O], of whatever names.

    Args:
        inputs: [B, ..., I].
        backprops: [B, ..., O].
        wanted: names of the weights to train.
        weight: name of the matrix.
        bias: name of the bias.
    """
    found: dict[str, Factor] = {}
    backprops = _positions(backprops)
    if weight in wanted:
        found[weight] = outer(_positions(inputs), backprops)
    if bias in wanted:
        found[bias] = Rows(backprops.float().sum(1))
    return found


def transposed_linear(
    layer: Conv1D, inputs: Tensor, backprops: Tensor, wanted: Collection[str]
) -> dict[str, Factor]:
    """y = x W + b, W [I, O]: the Conv1D of GPT-2."""
    del layer
    found = affine(inputs, backprops, [name for name in wanted if name != "weight"])
    if "weight" in wanted:
        found["weight"] = outer(_positions(backprops), _positions(inputs))
    return found


def table(
    layer: nn.Embedding, ids: Tensor, backprops: Tensor, wanted: Collection[str]
) -> dict[str, Factor]:
    """Rows of a matrix [V, D].

    Raises:
        PrivacyError: a table that scales its gradients by the batch, or renormalizes rows.
    """
    del wanted
    if layer.scale_grad_by_freq or layer.max_norm is not None:
        raise PrivacyError(
            "a table with scale_grad_by_freq or max_norm mixes examples; it cannot be trained "
            "privately"
        )
    values = backprops.reshape(len(ids), -1, backprops.shape[-1])
    ids = ids.reshape(len(ids), -1)
    return {"weight": lookup(ids, values, layer.num_embeddings, layer.padding_idx)}


def layer_norm(
    layer: nn.LayerNorm, inputs: Tensor, backprops: Tensor, wanted: Collection[str]
) -> dict[str, Factor]:
    """y = w * (x - mean) / deviation + b (Ba et al. 2016)."""
    shape = layer.normalized_shape
    normal = nn.functional.layer_norm(inputs.float(), shape, eps=layer.eps)
    return _scale_and_shift(normal, backprops, len(shape), wanted)


def rms_norm(
    layer: nn.Module, inputs: Tensor, backprops: Tensor, wanted: Collection[str]
) -> dict[str, Factor]:
    """y = w * x / root mean square of x (Zhang and Sennrich 2019): Llama's, T5's, torch's."""
    epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    values = inputs.float()
    if epsilon is None:
        epsilon = torch.finfo(inputs.dtype).eps
    normal = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
    return _scale_and_shift(normal, backprops, 1, wanted)


def of_opacus(sampler: Callable[..., dict[nn.Parameter, Tensor]]) -> Sampler:
    """Make a sampler of one of opacus's."""

    def sample(
        layer: nn.Module, inputs: Tensor, backprops: Tensor, wanted: Collection[str]
    ) -> dict[str, Factor]:
        own = {name: p for name, p in layer.named_parameters(recurse=False) if name in wanted}
        frozen = [p for p in own.values() if not p.requires_grad]
        # It looks at requires_grad, which is off while gradients are computed here.
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            with torch.no_grad():
                found = sampler(layer, [inputs.float()], backprops.float())
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
        return {name: Rows(found[parameter]) for name, parameter in own.items()}

    return sample


def sampler_for(layer: nn.Module, name: str) -> Sampler:
    """Return what computes the per-example gradients of a layer's weights.

    Args:
        layer: has a weight of its own to train.
        name: of the layer, for the message.

    Raises:
        PrivacyError: there is none for such a layer.
    """
    if isinstance(layer, nn.Linear):
        return linear
    if isinstance(layer, Conv1D):
        return transposed_linear
    if isinstance(layer, nn.Embedding):
        return table
    if isinstance(layer, nn.LayerNorm):
        return layer_norm
    if is_rms_norm(layer):
        return rms_norm
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.GroupNorm):
        return of_opacus(_samplers_of_opacus()[type(layer)])
    raise PrivacyError(
        f"{name} is a {type(layer).__name__}, for whose weights there is no gradient of each "
        "example; freeze it, or train an adapter (parts.adapter)"
    )


def is_rms_norm(layer: nn.Module) -> bool:
    """Whether a layer scales by a vector after a division by the root mean square."""
    kind = type(layer).__name__
    if not (kind.endswith("RMSNorm") or kind == "T5LayerNorm"):
        return False
    own = dict(layer.named_parameters(recurse=False))
    return own.keys() == {"weight"} and own["weight"].dim() == 1


def _samplers_of_opacus() -> dict[type[nn.Module], Callable[..., dict[nn.Parameter, Tensor]]]:
    # Importing opacus takes a second; only convolutions need it.
    from opacus.grad_sample import GradSampleModule

    found: dict[type[nn.Module], Callable[..., dict[nn.Parameter, Tensor]]]
    found = GradSampleModule.GRAD_SAMPLERS
    return found


def _scale_and_shift(
    normal: Tensor, backprops: Tensor, dimensions: int, wanted: Collection[str]
) -> dict[str, Factor]:
    found: dict[str, Factor] = {}
    between = tuple(range(1, normal.dim() - dimensions))
    backprops = backprops.float()
    if "weight" in wanted:
        product = backprops * normal
        found["weight"] = Rows(product.sum(between) if between else product)
    if "bias" in wanted:
        found["bias"] = Rows(backprops.sum(between) if between else backprops)
    return found


def _positions(values: Tensor) -> Tensor:
    """[B, ..., D] -> [B, T, D]; a vector of each example has one position."""
    return values.reshape(len(values), -1, values.shape[-1])
