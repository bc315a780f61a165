"""Adapters: few weights that are trained beside many that stay.

    lora    W x + (alpha / r) B A x, A and B of rank r, on the query and value matrices of
            attention (Hu et al. 2021); B starts at 0, so that nothing changes at first
    bitfit  biases only (Ben Zaken et al. 2022)

With either, what is new is trained as well: added dense layers, parts that the recipe
replaces, and the output layer of a classifier or tagger.

On disk there are no adapters: `merged` folds them into the matrices that they sit on, so
that a checkpoint is an ordinary one. A run's own checkpoints keep them apart, under the
names `lora_down.weight` and `lora_up.weight` beside the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainer.errors import RecipeError
from trainer.models.network import Network
from trainer.recipe.schema import PartsOptions

# What the stock classes call the query and value matrices, or the one that holds them.
ATTENTION_MATRICES = (
    "query",
    "value",
    "q_proj",
    "v_proj",
    "q_lin",
    "v_lin",
    "q",
    "v",
    "c_attn",
    "query_key_value",
    "qkv_proj",
    "Wqkv",
)
_DOWN, _UP = "lora_down", "lora_up"


class LoraLinear(nn.Linear):
    """A linear layer with a trained product of low rank beside its frozen matrix."""

    lora_down: nn.Linear
    lora_up: nn.Linear
    scale: float

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        change: Tensor = self.lora_up(self.lora_down(inputs)) * self.scale
        return super().forward(inputs) + change


class LoraConv1D(Conv1D):  # type: ignore[misc]  # transformers has no types here
    """The same for GPT-2's Conv1D, whose matrix is [I, O]."""

    lora_down: nn.Linear
    lora_up: nn.Linear
    scale: float

    def forward(self, inputs: Tensor) -> Tensor:
        """Map [..., I] to [..., O]."""
        states: Tensor = super().forward(inputs) + self.lora_up(self.lora_down(inputs)) * self.scale
        return states


def add_adapter(network: Network, options: PartsOptions) -> None:
    """Freeze a network but for an adapter and what is new.

    Args:
        network: parts that the recipe adds or replaces are in place already.
        options: which adapter, and its rank and scale.

    Raises:
        RecipeError: the network has no matrices or no biases for this adapter.
    """
    if options.adapter == "none":
        return
    if "features" in options.freeze:
        raise RecipeError(
            f"parts.adapter is {options.adapter!r}, which freezes all but what it trains; leave "
            "'features' out of parts.freeze, which would freeze the adapter too"
        )
    network.requires_grad_(False)
    train = _add_lora if options.adapter == "lora" else _train_biases
    train(network, options)
    network.added.requires_grad_(True)
    for name in options.replace:
        for parameter in network.part_parameters(name):
            parameter.requires_grad_(True)
    if network.labels and network.head is not None:
        network.head.requires_grad_(True)


def merged(layers: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold adapters into the matrices that they sit on.

    Args:
        layers: all layers of a network by name; those with adapters know their scale.
        tensors: whole values of the network under its names.

    Returns:
        The values that a network without adapters has, under its names.
    """
    folded = dict(tensors)
    for name, layer in layers.items():
        if not isinstance(layer, LoraLinear | LoraConv1D):
            continue
        down, up = folded.pop(f"{name}.{_DOWN}.weight"), folded.pop(f"{name}.{_UP}.weight")
        matrix = folded[f"{name}.weight"]
        # On the CPU and in float64, the same on every device.
        added = layer.scale * (up.detach().cpu().double() @ down.detach().cpu().double())
        added = added.T if isinstance(layer, LoraConv1D) else added
        folded[f"{name}.weight"] = (matrix.detach().cpu().double() + added).to(matrix.dtype)
    return folded


def _add_lora(network: Network, options: PartsOptions) -> None:
    found = [
        (name, layer)
        for name, layer in network.named_modules()
        if name.rpartition(".")[2] in ATTENTION_MATRICES and isinstance(layer, nn.Linear | Conv1D)
    ]
    if not found:
        raise RecipeError(
            f"parts.adapter is 'lora', and this {network.family} has no query and value matrices "
            "by a known name; use 'bitfit', or freeze parts"
        )
    for _, layer in found:
        adapt(layer, options.lora_rank, options.lora_alpha)


def adapt(layer: nn.Linear | Conv1D, rank: int, alpha: float) -> None:
    """Put an adapter on a matrix, in place; it keeps its name and its values.

    Args:
        layer: exactly a linear layer or a Conv1D.
        rank: of the product, r.
        alpha: the product is scaled by alpha / r.

    Raises:
        RecipeError: a rank above the matrix's, or a layer of another class.
    """
    linear = type(layer) is nn.Linear
    if not linear and type(layer) is not Conv1D:
        raise RecipeError(f"parts.adapter is 'lora', which does not fit a {type(layer).__name__}")
    wide, high = layer.weight.shape[::-1] if linear else layer.weight.shape
    if rank > min(wide, high):
        raise RecipeError(
            f"parts.lora_rank is {rank}, and a matrix of attention has {high} rows and {wide} "
            "columns; a rank as large as that saves nothing"
        )
    device, dtype = layer.weight.device, layer.weight.dtype
    down = nn.Linear(wide, rank, bias=False, device=device, dtype=dtype)
    up = nn.Linear(rank, high, bias=False, device=device, dtype=dtype)
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    nn.init.zeros_(up.weight)
    # A subclass in place: whatever holds the layer, or knows its weights by name, still does.
    layer.__class__ = LoraLinear if linear else LoraConv1D
    layer.add_module(_DOWN, down)
    layer.add_module(_UP, up)
    layer.scale = alpha / rank


def _train_biases(network: Network, options: PartsOptions) -> None:
    del options
    biases = [
        parameter
        for name, parameter in network.named_parameters()
        if name.rpartition(".")[2].startswith("bias")
    ]
    output = {id(p) for p in network.part_parameters("output")}
    if all(id(p) in output for p in biases):
        raise RecipeError(
            f"parts.adapter is 'bitfit', and this {network.family} has no biases; use 'lora'"
        )
    for bias in biases:
        bias.requires_grad_(True)
