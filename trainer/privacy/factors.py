"""Per-example gradients of one weight, in the form that is cheapest to hold.

A gradient of a matrix is a sum of outer products over positions, and that of a table has
few rows; neither needs to be written out for each example to know its norm or to add the
clipped sum ("ghost norms" and book-keeping: Goodfellow 2015, Li et al. 2022, Bu et al. 2022
and 2023). Shapes: B examples, T positions, I inputs, O outputs.

Invariants: sums and norms are float32, whatever autocast computed in. A squared norm is
never too small by more than `clipping.MARGIN` covers: where terms may cancel, a bound on
the rounding is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# A product of float32 vectors errs by about this share of the product of their lengths.
_ROUNDING = 2.0**-22


class Factor(Protocol):
    """The gradients of one weight, of shape [*S], for B examples."""

    def squared_norms(self) -> Tensor:
        """Return float32 [B], the squared norm of each example's gradient."""
        ...

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add sum_i factors[i] * gradient_i to float32 [*S] in place."""
        ...

    def select(self, examples: Tensor) -> Factor:
        """Return the gradients of some examples, whose numbers rise in int64 [K]."""
        ...

    def rows(self) -> Tensor:
        """Write the gradients out, float32 [B, *S]."""
        ...


class Rows:
    """Gradients that are written out."""

    def __init__(self, gradients: Tensor) -> None:
        """`gradients`: [B, *S] of any type."""
        self._gradients = gradients.float()

    def squared_norms(self) -> Tensor:
        """Return float32 [B]."""
        norms: Tensor = torch.linalg.vector_norm(self._gradients.flatten(1), dim=1)
        return norms.square()

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add the weighted sum to `total`."""
        total.view(-1).addmv_(self._gradients.flatten(1).t(), factors)

    def select(self, examples: Tensor) -> Rows:
        """Return some examples."""
        return Rows(self._gradients.index_select(0, examples))

    def rows(self) -> Tensor:
        """Return [B, *S]."""
        return self._gradients


class Outer:
    """Gradients sum_t backprops[t] (x) inputs[t] of a matrix [O, I].

    For short texts and large matrices, where T x T products are the fewer; `outer` decides.
    """

    def __init__(self, inputs: Tensor, backprops: Tensor) -> None:
        """`inputs` [B, T, I] and `backprops` [B, T, O], of any floating type."""
        self._inputs, self._backprops = inputs, backprops

    def squared_norms(self) -> Tensor:
        """Return float32 [B]: |sum_t g_t (x) a_t|^2 = sum_st <a_s, a_t> <g_s, g_t>."""
        inputs, backprops = self._inputs.float(), self._backprops.float()
        products = torch.bmm(inputs, inputs.mT) * torch.bmm(backprops, backprops.mT)
        lengths: Tensor = inputs.norm(dim=2) * backprops.norm(dim=2)
        squares: Tensor = products.sum((1, 2)).clamp(min=0)
        return squares + _ROUNDING * lengths.sum(1).square()

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add the weighted sum: one product of matrices, as in an ordinary backward pass."""
        weighted = self._backprops.float() * factors[:, None, None]
        total.addmm_(weighted.flatten(0, 1).t(), self._inputs.float().flatten(0, 1))

    def select(self, examples: Tensor) -> Outer:
        """Return some examples."""
        return Outer(
            self._inputs.index_select(0, examples), self._backprops.index_select(0, examples)
        )

    def rows(self) -> Tensor:
        """Return float32 [B, O, I]."""
        return _outer(self._inputs, self._backprops)


def outer(inputs: Tensor, backprops: Tensor) -> Rows | Outer:
    """Return the gradients of a matrix [O, I] in the smaller of the two forms."""
    length, wide, high = inputs.shape[1], inputs.shape[2], backprops.shape[2]
    if wide * high <= length * (wide + high):
        return Rows(_outer(inputs, backprops))
    return Outer(inputs, backprops)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Gradients of a table [V, D]: a line for each pair of an example and a row it looked up.

    Attributes:
        owners: int64 [N], the example of a line; rising.
        entries: int64 [N], the row of the table.
        sums: float32 [N, D], the example's gradient of that row.
        examples: B.
        size: rows of the table, V.
    """

    owners: Tensor
    entries: Tensor
    sums: Tensor
    examples: int
    size: int

    def squared_norms(self) -> Tensor:
        """Return float32 [B]."""
        squares: Tensor = torch.linalg.vector_norm(self.sums, dim=1).square()
        return squares.new_zeros(self.examples).index_add_(0, self.owners, squares)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add the weighted sum to the rows of `total` that were touched."""
        total.index_add_(0, self.entries, self.sums * factors[self.owners][:, None])

    def select(self, examples: Tensor) -> Lookup:
        """Return some examples."""
        kept = torch.isin(self.owners, examples)
        owners = torch.searchsorted(examples, self.owners[kept])
        return Lookup(owners, self.entries[kept], self.sums[kept], len(examples), self.size)

    def rows(self) -> Tensor:
        """Return float32 [B, V, D]."""
        whole = self.sums.new_zeros(self.examples * self.size, self.sums.shape[1])
        whole[self.owners * self.size + self.entries] = self.sums
        return whole.view(self.examples, self.size, -1)


def lookup(ids: Tensor, backprops: Tensor, entries: int, padding: int | None) -> Lookup:
    """Add up what each example gives to each row of a table.

    Args:
        ids: int64 [B, T], what was looked up.
        backprops: [B, T, D].
        entries: rows of the table.
        padding: a row that never gets a gradient, or None.
    """
    first = torch.arange(len(ids), device=ids.device)[:, None] * entries
    keys, place = torch.unique(ids + first, return_inverse=True)
    values = backprops.float()
    if padding is not None:
        values = values.masked_fill((ids == padding)[:, :, None], 0)
    sums = values.new_zeros(len(keys), values.shape[2])
    sums.index_add_(0, place.flatten(), values.flatten(0, 1))
    return Lookup(keys // entries, keys % entries, sums, len(ids), entries)


def together(factors: list[Factor]) -> Factor:
    """Return the gradients of a weight that was used several times in one pass."""
    if len(factors) == 1:
        return factors[0]
    return Rows(torch.stack([factor.rows() for factor in factors]).sum(0))


def _outer(inputs: Tensor, backprops: Tensor) -> Tensor:
    return torch.bmm(backprops.float().mT, inputs.float())
