"""Hooks that see the input of each trained layer and the gradient of its output.

While a `Watch` is open, the trained weights do not require a gradient, so that autograd
does not compute the sum over examples that nobody needs. Frozen layers get no hook.
What was seen is kept until `take`, by weight; a weight may be seen several times in one
pass (a tied matrix, a layer that is called twice).

The forward and the backward pass both belong inside, in this order. Recomputed
activations are right as well, since a hook belongs to a tensor of the first pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainer.models.network import Network
from trainer.objectives.adaptive import AdaptiveOutput
from trainer.privacy import recurrence, relative_positions
from trainer.privacy.alignment import Alignment, repeat_ids
from trainer.privacy.errors import PrivacyError
from trainer.privacy.factors import Factor, together
from trainer.privacy.hooks import on_gradient, ready
from trainer.privacy.samplers import Sampler, sampler_for


@dataclass(frozen=True, slots=True)
class _Watched:
    """A layer with weights to train."""

    name: str
    layer: nn.Module
    weights: dict[str, str]  # from the layer's name of a weight to the network's
    flat: bool  # it takes a flat list of tokens

    @property
    def wanted(self) -> set[str]:
        return set(self.weights)


class Watch:
    """Collects the per-example gradients of a network's trainable weights.

    Args:
        network: its parameters that require a gradient now are watched.

    Raises:
        PrivacyError: a trainable weight for whose layer there is no sampler.

    Attributes:
        parameters: the watched weights, under their first names in the network.
    """

    def __init__(self, network: Network) -> None:
        self.parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        names = {id(p): n for n, p in self.parameters.items()}
        flat = _flat_layers(network)
        self._layers: list[_Watched] = []
        for name, layer in network.named_modules():
            own = layer.named_parameters(recurse=False)
            weights = {each: names[id(p)] for each, p in own if id(p) in names}
            if weights:
                self._layers.append(_Watched(name, layer, weights, id(layer) in flat))
        self._samplers = {each.name: _sampler(each) for each in self._layers}
        self._biases = relative_positions.tables_in(network)
        self._seen: dict[str, list[Factor]] = {}

    @contextmanager
    def open(self, alignment: Alignment) -> Iterator[None]:
        """Watch one forward and one backward pass of the examples of `alignment`."""
        self._seen = {}
        with ExitStack() as stack:
            for each in self._layers:
                self._attach(each, alignment, stack)
            for parameter in self.parameters.values():
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
            yield

    def take(self) -> dict[str, Factor]:
        """Return the gradients that were seen, by weight; one without any is not there."""
        seen, self._seen = self._seen, {}
        return {name: together(found) for name, found in seen.items()}

    def _attach(self, each: _Watched, alignment: Alignment, stack: ExitStack) -> None:
        layer = each.layer
        if isinstance(layer, nn.LSTM | nn.GRU):
            stack.enter_context(_replaced(layer, partial(self._recurrent, each, alignment)))
            return
        attention = self._biases.get(id(layer))
        if attention is not None and isinstance(layer, nn.Embedding):
            watch = partial(self._relative, each)
            stack.enter_context(
                relative_positions.by_example(attention, layer, alignment.examples, watch)
            )
            return
        if isinstance(layer, nn.Embedding):
            before = layer.register_forward_pre_hook(partial(_repeat, alignment.examples))
            stack.callback(before.remove)
        after = layer.register_forward_hook(partial(self._forward, each, alignment))
        stack.callback(after.remove)

    def _forward(
        self, each: _Watched, alignment: Alignment, layer: nn.Module, given: Any, output: Tensor
    ) -> Tensor:
        """Ask for the gradient of a layer's output."""
        if not torch.is_grad_enabled():
            return output
        if not given or not isinstance(given[0], Tensor) or not isinstance(output, Tensor):
            raise PrivacyError(f"{each.name} takes or gives no single tensor; freeze it")
        output = ready(output)
        on_gradient(output, partial(self._backward, each, alignment, given[0].detach()))
        return output

    def _backward(
        self, each: _Watched, alignment: Alignment, inputs: Tensor, gradient: Tensor
    ) -> None:
        inputs = alignment.align(inputs, each.name, flat=each.flat)
        gradient = alignment.align(gradient, each.name, flat=each.flat)
        sample = self._samplers[each.name]
        self._keep(each, sample(each.layer, inputs, gradient, each.wanted))

    def _recurrent(
        self, each: _Watched, alignment: Alignment, inputs: Tensor, state: object = None
    ) -> tuple[Tensor, Tensor]:
        """Stand in for the forward pass of a recurrent layer."""
        if state is not None:
            raise PrivacyError(f"{each.name} goes on from a state, which links examples")
        layer = each.layer
        if not isinstance(layer, nn.LSTM | nn.GRU):
            raise PrivacyError(f"{each.name} is no recurrent layer")

        def watch(gates: Tensor, seen: Callable[[], recurrence.Gates]) -> Tensor:
            def arrived(gradient: Tensor) -> None:
                alignment.align(gradient, each.name, flat=False)
                self._keep(each, recurrence.gradients(seen(), gradient, each.wanted))

            gates = ready(gates)
            on_gradient(gates, arrived)
            return gates

        return recurrence.run(layer, inputs, watch)

    def _relative(self, each: _Watched, ids: Tensor, gradient: Tensor) -> None:
        sample = self._samplers[each.name]
        self._keep(each, sample(each.layer, ids, gradient, each.wanted))

    def _keep(self, each: _Watched, found: dict[str, Factor]) -> None:
        for name, factor in found.items():
            self._seen.setdefault(each.weights[name], []).append(factor)


def _repeat(examples: int, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Give each example ids of its own, before a table that many would share."""
    del layer
    return (repeat_ids(given[0], examples), *given[1:])


def _flat_layers(network: Network) -> set[int]:
    """Return the layers that objectives give a flat list of tokens."""
    output = network.output
    if output is None or network.level != "token":
        return set()
    if isinstance(output, AdaptiveOutput) and any(p.requires_grad for p in output.parameters()):
        raise PrivacyError(
            "an adaptive softmax gives each of its layers other tokens, so that its gradients "
            "cannot be told apart by example; set objective.softmax to 'full'"
        )
    return {id(layer) for layer in output.modules()}


def _sampler(each: _Watched) -> Sampler:
    if isinstance(each.layer, nn.LSTM | nn.GRU):
        recurrence.require_single(each.layer, each.name)
        return _no_sampler
    return sampler_for(each.layer, each.name)


def _no_sampler(*_: object) -> dict[str, Factor]:
    raise PrivacyError("a recurrent layer has its gradients from its gates")


@contextmanager
def _replaced(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a layer compute in another way for a while."""
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
