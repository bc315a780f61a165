"""How much one example may move a sum: factors that bound each example's gradient.

Pure functions of the norms. Whatever the kind, the clipped gradient of an example has a
norm of at most `clip_norm`, which is the sensitivity that noise is scaled to:

    flat       min(1, C / |g|)                        Abadi et al. 2016, algorithm 1
    per-layer  min(1, C / sqrt(L) / |g_l|) per layer  McMahan et al. 2018
    automatic  C / (|g| + gamma)                      Bu et al. 2023, AUTO-S

Invariant: the bound also holds for what float32 makes of it. A factor of 1 is given only
where the norm is below the bound by more than rounding can hide, and every other factor
is made smaller by as much. An example whose norm is no number gets the factor 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ClippingKind = Literal["flat", "per-layer", "automatic"]

# Relative error that a norm in float32, and a product with it, may have.
MARGIN = 1e-5
# Of automatic clipping: where it bends. The paper's value, for norms around 1.
GAMMA = 0.01


def flat_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """Return factors of at most 1 that bring norms down to `clip_norm`.

    Args:
        norms: float32, any shape; not below 0.
        clip_norm: the largest norm that is left.

    Returns:
        float32 of the same shape; 0 where a norm is no finite number.
    """
    limit = clip_norm * (1 - MARGIN)
    # A norm of 0 is divided by something: its factor is 1.
    factors = (limit / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    return torch.where(norms.isfinite(), factors, torch.zeros_like(factors))


def per_layer_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """Return factors that bring the norm of each of L layers to `clip_norm` / sqrt(L).

    An example with a norm that is no number in one layer gets 0 in all of them.

    Args:
        norms: float32 [L, B], a row for each layer.
        clip_norm: the largest norm of all layers together.
    """
    factors = flat_factors(norms, clip_norm / math.sqrt(max(len(norms), 1)))
    return factors * norms.isfinite().all(0)


def automatic_factors(norms: Tensor, clip_norm: float, gamma: float = GAMMA) -> Tensor:
    """Return factors that give every gradient nearly the norm `clip_norm`.

    Small gradients stay small: the factor is never above `clip_norm` / `gamma`.

    Args:
        norms: float32, any shape.
        clip_norm: what clipped norms come near to.
        gamma: above 0; the norm that is brought to half of `clip_norm`.
    """
    factors = clip_norm * (1 - MARGIN) / (norms + gamma)
    return torch.where(norms.isfinite(), factors, torch.zeros_like(factors))


@dataclass(frozen=True, slots=True)
class Clipping:
    """A kind of clipping and its bound.

    Attributes:
        kind: "flat", "per-layer" or "automatic".
        clip_norm: largest norm of an example's clipped gradient, all layers together.
    """

    kind: ClippingKind
    clip_norm: float

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: no such kind, or a bound that is not above 0.
        """
        if self.kind not in ("flat", "per-layer", "automatic"):
            raise ValueError(f"there is no clipping {self.kind!r}")
        if not (self.clip_norm > 0 and math.isfinite(self.clip_norm)):
            raise ValueError(f"clip_norm is {self.clip_norm}; it must be above 0")

    def factors(self, norms: Tensor) -> Tensor:
        """Return what the gradients of layers are multiplied with.

        Args:
            norms: float32 [L, B], norm of each layer's gradient for each example.

        Returns:
            float32 [L, B]; the same in every row, unless the kind is "per-layer".
        """
        if self.kind == "per-layer":
            return per_layer_factors(norms, self.clip_norm)
        whole = torch.linalg.vector_norm(norms, dim=0)
        compute = flat_factors if self.kind == "flat" else automatic_factors
        return compute(whole, self.clip_norm).expand_as(norms)
