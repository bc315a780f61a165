"""What finetuning does with the three parts: add, replace, adapt, freeze; in this order.

Refused: to freeze or replace a part that has no weights of its own (a tied output layer
is the input table's), and to freeze everything.
"""

from __future__ import annotations

from torch import nn

from trainer.errors import RecipeError
from trainer.models.adapters import add_adapter
from trainer.models.network import DenseLayer, Network
from trainer.recipe.schema import PartsOptions


def apply_parts(network: Network, options: PartsOptions) -> Network:
    """Change a network in place as a recipe asks, and return it.

    Raises:
        RecipeError: a part that is not there, or nothing left to train.
    """
    add_task_layers(network, options.add_task_layers)
    for name in options.replace:
        replace(network, name)
    add_adapter(network, options)
    for name in options.freeze:
        freeze(network, name)
    freeze_layers(network, options.freeze_layers)
    if not any(p.requires_grad for p in network.parameters()):
        raise RecipeError("every weight is frozen; there is nothing to train")
    return network


def add_task_layers(network: Network, count: int) -> None:
    """Add dense layers after the task layer, with new weights."""
    head = network.output
    width = head.in_features if isinstance(head, nn.Linear) else network.size().width
    network.added.extend(DenseLayer(width) for _ in range(count))


def replace(network: Network, name: str) -> None:
    """Give a part new weights; a tied output layer gets a matrix of its own.

    Raises:
        RecipeError: the part is not there.
    """
    if name == "output":
        network.replace_head()
        return
    module = _present(network, name)
    # A module list has no weights of its own: its members say how they start.
    members = list(module.children()) if isinstance(module, nn.ModuleList) else [module]
    network.initialize(members)


def freeze(network: Network, name: str) -> None:
    """Keep a part's weights as they are.

    Raises:
        RecipeError: the part is not there, or has no weights of its own.
    """
    _present(network, name)
    own = network.part_parameters(name)
    if not own:
        raise RecipeError(
            f"the {name} layer shares its weights with the input table; freeze 'features', or "
            f"put {name!r} under parts.replace to give it its own"
        )
    for parameter in own:
        parameter.requires_grad_(False)


def freeze_layers(network: Network, count: int) -> None:
    """Keep the embeddings and the lowest layers as they are.

    Raises:
        RecipeError: there are not so many layers.
    """
    if count == 0:
        return
    layers = network.blocks()
    if count > len(layers):
        raise RecipeError(
            f"parts.freeze_layers is {count}, and this {network.family} has {len(layers)} layers"
        )
    inside = {id(p) for layer in layers for p in layer.parameters()}
    for parameter in network.parameters():
        if id(parameter) in inside:
            break
        # What comes before the first layer: tables of tokens and positions, their norm.
        parameter.requires_grad_(False)
    for layer in layers[:count]:
        layer.requires_grad_(False)


def _present(network: Network, name: str) -> nn.Module:
    module = network.part(name)
    if module is None:
        raise RecipeError(f"this {network.family} has nothing in its {name} part")
    return module
