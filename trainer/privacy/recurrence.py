"""LSTM and GRU layers written out, so that the gradients of their gates can be seen.

torch's own run all time steps in one kernel, which shows nothing but the gradient of the
sum over examples. Written out, the gates' inputs W x + b of all steps are one tensor, and
its gradient is all there is to know: the matrix on x gets that gradient times x, the
matrix on the state the same (for the GRU's candidate: times the reset gate) times the
state before.

Refused: layers of several levels, directions or projections; networks here stack layers
of one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.privacy.errors import PrivacyError
from trainer.privacy.factors import Factor
from trainer.privacy.samplers import affine

Recurrence = nn.LSTM | nn.GRU


class Gates(NamedTuple):
    """What the gradients of a layer's weights are made of; T steps, width H, G gates.

    Attributes:
        inputs: [B, T, I], of the layer.
        before: [B, T, H], the state before each step.
        reset: [B, T, H], the reset gate of a GRU; None for an LSTM.
    """

    inputs: Tensor
    before: Tensor
    reset: Tensor | None


# Gets the gates' inputs [B, T, G * H], and gives them back, ready for a gradient.
Watch = Callable[[Tensor, Callable[[], Gates]], Tensor]


def require_single(layer: Recurrence, name: str) -> None:
    """Refuse a layer that is more than one.

    Raises:
        PrivacyError: several levels, two directions, a projection, or time first.
    """
    projected = getattr(layer, "proj_size", 0)
    if layer.num_layers > 1 or layer.bidirectional or projected or not layer.batch_first:
        raise PrivacyError(
            f"{name} is a recurrent layer of several levels or directions; private training "
            "needs one of each, with the examples first"
        )


def run(layer: Recurrence, inputs: Tensor, watch: Watch) -> tuple[Tensor, Tensor]:
    """Compute the states of a layer from the state 0, as the layer itself would.

    Args:
        layer: see `require_single`.
        inputs: [B, T, I].
        watch: lets somebody see the gradient of the gates' inputs.

    Returns:
        All states [B, T, H], and the last [B, H].
    """
    weights = dict(layer.named_parameters(recurse=False))
    gates = nn.functional.linear(inputs, weights["weight_ih_l0"], weights.get("bias_ih_l0"))
    weight, shift = weights["weight_hh_l0"], weights.get("bias_hh_l0")
    start = gates.new_zeros(len(inputs), layer.hidden_size)
    states: list[Tensor] = []
    resets: list[Tensor] = []

    def seen() -> Gates:
        before = torch.stack([start, *states[:-1]], dim=1).detach()
        return Gates(inputs.detach(), before, torch.stack(resets, 1) if resets else None)

    gates = watch(gates, seen)
    state, cell = start, start
    for step in gates.unbind(1):
        recurrent = nn.functional.linear(state, weight, shift)
        if isinstance(layer, nn.LSTM):
            state, cell = _lstm_step(step + recurrent, cell)
        else:
            state, reset = _gru_step(step, recurrent, state)
            resets.append(reset.detach())
        states.append(state)
    # Laid out in memory as torch's own are, so that dropout draws the same mask.
    return torch.stack(states).transpose(0, 1), state


def gradients(gates: Gates, backprops: Tensor, wanted: Collection[str]) -> dict[str, Factor]:
    """Return the per-example gradients of a layer's weights.

    Args:
        gates: what `run` saw.
        backprops: [B, T, G * H], gradient of the gates' inputs.
        wanted: names of the weights to train.
    """
    found = affine(gates.inputs, backprops, wanted, weight="weight_ih_l0", bias="bias_ih_l0")
    inner = backprops
    if gates.reset is not None:
        width = gates.reset.shape[-1]
        candidate = backprops[..., 2 * width :] * gates.reset
        inner = torch.cat([backprops[..., : 2 * width], candidate], dim=-1)
    names = {"weight": "weight_hh_l0", "bias": "bias_hh_l0"}
    return found | affine(gates.before, inner, wanted, **names)


def _lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM; gates in the order input, forget, cell, output."""
    enter, keep, new, show = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(show) * torch.tanh(cell), cell


def _gru_step(given: Tensor, recurrent: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One step of a GRU; gates in the order reset, update, new."""
    reset_in, update_in, new_in = given.chunk(3, dim=-1)
    reset_own, update_own, new_own = recurrent.chunk(3, dim=-1)
    reset = torch.sigmoid(reset_in + reset_own)
    update = torch.sigmoid(update_in + update_own)
    new = torch.tanh(new_in + reset * new_own)
    return (1 - update) * new + update * state, reset
