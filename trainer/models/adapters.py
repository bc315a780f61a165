"""Adapters: few weights that are trained beside many that stay.

    lora    W x + (alpha / r) B A x, A and B of rank r, on the attention's query and
            value matrices (Hu et al. 2021); B starts at 0, so nothing changes at first
    bitfit  biases only (Ben Zaken et al. 2022)

With either, an output layer that is new is trained as well. On disk there are no
adapters: `merged` folds them into the matrices that they sit on, so that a checkpoint is
an ordinary one.
"""

from __future__ import annotations

from trainer.models.network import Network
from trainer.recipe.schema import PartsOptions


def add_adapter(network: Network, options: PartsOptions) -> None:
    """Freeze a network but for an adapter and a new output layer.

    Raises:
        RecipeError: the network has no matrices or biases for this adapter.
    """
