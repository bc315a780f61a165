"""Hooks on single tensors."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def ready(values: Tensor) -> Tensor:
    """Return values that a gradient will reach: below the first trained layer none would."""
    return values if values.requires_grad else values.detach().requires_grad_()


def on_gradient(values: Tensor, arrived: Callable[[Tensor], None]) -> None:
    """Call something with the gradient of a tensor, once it is known."""
    values.register_hook(arrived)  # type: ignore[no-untyped-call]
