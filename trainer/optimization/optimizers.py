"""Optimizers behind one object: AdamW, SGD with momentum, and Muon with AdamW.

Matrices decay and vectors (biases, norms) do not. The decay is decoupled from the
gradient (Loshchilov and Hutter 2019) in all three. A network is given after it was
distributed, because FSDP puts its own parameters in place of the network's.

Invariants: every trainable parameter belongs to exactly one part; the learning rate
of a group is its peak times the factor set last; frozen parameters are not touched.
Muon under FSDP is refused: it orthogonalizes whole matrices, and a rank holds slices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainer.errors import RecipeError
from trainer.recipe.schema import OptimizerOptions

if TYPE_CHECKING:
    from trainer.models.network import Network

# Keller Jordan's Muon, https://kellerjordan.github.io/posts/muon/
_MUON_MOMENTUM = 0.95


class Optimizers:
    """One or two torch optimizers that move together.

    Attributes:
        parts: the optimizers; each trainable parameter is in one of them.
            `torch.distributed.checkpoint.state_dict` takes them as a list.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        """Take optimizers whose groups hold their peak learning rates."""
        self.parts = tuple(parts)
        # Kept here and not in the groups, which loading a checkpoint replaces.
        self._peaks = [[float(group["lr"]) for group in part.param_groups] for part in self.parts]

    def step(self) -> None:
        """Make one update with the gradients there are."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def set_factor(self, factor: float) -> None:
        """Set every learning rate to its peak times `factor`."""
        for part, peaks in zip(self.parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last part's first group (AdamW's, beside Muon)."""
        return float(self.parts[-1].param_groups[0]["lr"])

    def parameters(self) -> Iterator[Tensor]:
        """Yield every parameter that is moved, each once."""
        for part in self.parts:
            for group in part.param_groups:
                yield from group["params"]


class DecoupledSGD(torch.optim.SGD):
    """SGD with momentum whose weight decay shrinks the weights, not the gradients.

    Equation 9 of Loshchilov and Hutter 2019 (SGDW): w <- (1 - lr * decay) * w, then the step.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], *, lr: float, momentum: float) -> None:
        """`groups` hold `params` and `decoupled_decay`."""
        super().__init__(groups, lr=lr, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one update; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            shrink = 1 - float(group["lr"]) * float(group["decoupled_decay"])
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if moved and shrink != 1:
                torch._foreach_mul_(moved, shrink)
        loss: float | None = super().step(closure)
        return loss


def build_optimizer(
    network: Network, options: OptimizerOptions, device: torch.device
) -> Optimizers:
    """Build the optimizer that a recipe names.

    Args:
        network: as trained, that is after DDP or FSDP has taken it over.
        options: the section `optimizer` of the recipe.
        device: where the parameters are.

    Raises:
        RecipeError: nothing is trainable, or Muon was asked for under FSDP or for a network
            without matrices in its blocks.
    """
    trainable = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    if not trainable:
        raise RecipeError(
            "every parameter of the network is frozen; take a part out of parts.freeze"
        )
    parameters = [parameter for _, parameter in trainable]
    if options.name == "sgd":
        groups = _groups(parameters, options.weight_decay, key="decoupled_decay")
        return Optimizers([DecoupledSGD(groups, lr=options.learning_rate, momentum=options.beta1)])
    if options.name == "adamw":
        return Optimizers([_adamw(parameters, options, device)])
    return _muon(network, parameters, options, device)


def _groups(parameters: Sequence[Tensor], decay: float, *, key: str) -> list[dict[str, Any]]:
    """Return matrices (and larger) with decay, vectors without; no empty group."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, key: decay},
        {"params": vectors, key: 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw(
    parameters: Sequence[Tensor], options: OptimizerOptions, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW in one fused kernel; on two CPU cores it takes a third of the plain loop's time."""
    return torch.optim.AdamW(
        _groups(parameters, options.weight_decay, key="weight_decay"),
        lr=options.learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.epsilon,
        fused=device.type in {"cuda", "cpu"},
    )


def _muon(
    network: Network,
    parameters: Sequence[Tensor],
    options: OptimizerOptions,
    device: torch.device,
) -> Optimizers:
    """Muon for the matrices of the blocks, AdamW for embeddings, output, norms and biases."""
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        raise RecipeError(
            "optimizer.name is 'muon', which needs whole matrices, but distribution.strategy "
            "'fsdp' shards them; use 'ddp', or 'adamw'"
        )
    matrices = block_matrices(network.blocks())
    if not matrices:
        raise RecipeError(
            "optimizer.name is 'muon', but the blocks of this network hold no trainable "
            "matrix; use 'adamw'"
        )
    muon = torch.optim.Muon(
        matrices,
        lr=options.muon_learning_rate,
        momentum=_MUON_MOMENTUM,
        # Decay is rate times weight_decay a step. Muon's rate is far larger than AdamW's,
        # and the recipe has one weight_decay: all matrices are to shrink alike.
        weight_decay=options.weight_decay * options.learning_rate / options.muon_learning_rate,
    )
    taken = {id(matrix) for matrix in matrices}
    rest = [parameter for parameter in parameters if id(parameter) not in taken]
    if not rest:
        return Optimizers([muon])
    return Optimizers([muon, _adamw(rest, options, device)])


def block_matrices(blocks: Sequence[nn.Module]) -> list[Tensor]:
    """Return what Muon moves: the trainable matrices of the blocks, each once, in order.

    A table that is looked up (T5's relative positions) is a list of rows and no map: to
    orthogonalize it would tie rows to one another.
    """
    tables = {
        id(module.weight)
        for block in blocks
        for module in block.modules()
        if isinstance(module, nn.Embedding)
    }
    found: dict[int, Tensor] = {}
    for block in blocks:
        for parameter in block.parameters():
            if parameter.requires_grad and parameter.ndim == 2 and id(parameter) not in tables:
                found.setdefault(id(parameter), parameter)
    return list(found.values())
