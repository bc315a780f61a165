"""The sum of clipped gradients over all ranks, with noise once on every coordinate.

Which rank adds the noise depends on who holds a weight:

    every rank holds all of it    the first rank adds noise, and all get the very same
                                  values from it
    each rank holds a shard       the sum comes to the ranks in shards, and each adds noise
    (FSDP)                        to its own, from secret coins of its own

A coordinate of a shard is on one rank alone, so it is noised once, and what two ranks add
is independent because no two generators share a key. Before anything is noised the shards
are counted over the ranks: they must make up the weights, no coordinate missing or twice.

What it refuses: shards that are not cut along one dimension over all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from trainer.distribution.group import Group
from trainer.privacy.errors import PrivacyError
from trainer.privacy.noise import add_noise_
from trainer.privacy.plan import PrivacyPlan
from trainer.privacy.randomness import SecretGenerator


class Summed:
    """One update's sums, from what this rank added up to gradients of the weights.

    Every method is called by all ranks, in this order.

    Args:
        sums: float32, whole, what this rank added up; by the names of the weights.
        parameters: the weights by name; DTensors where ranks hold shards.
        group: the ranks.

    Raises:
        PrivacyError: weights that are cut in a way that the noise cannot follow.
    """

    def __init__(
        self, sums: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], group: Group
    ) -> None:
        self._group = group
        self._parameters = {name: parameters[name] for name in sums}
        self._coordinates = sum(values.numel() for values in sums.values())
        copies: dict[str, Tensor] = {}
        sharded: dict[str, Tensor] = {}
        for name, values in sums.items():
            held = parameters[name].data
            (sharded if isinstance(held, DTensor) else copies)[name] = values
        self._copies = Flat(copies, group.device)
        group.sum_(self._copies.values)
        self._shards = Flat({}, group.device)
        if sharded:
            self._shards = _own_shards(sharded, parameters, group)
            self._require_all(sum(values.numel() for values in sharded.values()))

    def _require_all(self, sharded: int) -> None:
        """Refuse shards that do not make up the weights they are of."""
        held = torch.tensor([self._shards.values.numel()], device=self._group.device)
        if int(self._group.sum_(held)) != sharded:
            raise PrivacyError(
                "the ranks' shards do not make up the weights: some coordinate would get no "
                "noise, or get it twice"
            )

    def add_noise(self, plan: PrivacyPlan, generator: SecretGenerator) -> None:
        """Add noise to every coordinate once; `generator` is this rank's own."""
        if self._group.is_first:
            self._noise(self._copies, plan, generator)
        else:
            self._copies.values.zero_()
        self._group.sum_(self._copies.values)
        self._noise(self._shards, plan, generator)

    def _noise(self, flat: Flat, plan: PrivacyPlan, generator: SecretGenerator) -> None:
        add_noise_(
            {"all": flat.values},
            mode=plan.noise,
            noise_multiplier=plan.noise_multiplier,
            sensitivity=plan.sensitivity,
            generator=generator,
            coordinates=self._coordinates,
        )

    def divide(self, normalizer: float) -> float:
        """Divide by what is public; return the norm of the whole, the same on all ranks."""
        self._copies.values /= normalizer
        self._shards.values /= normalizer
        squares = torch.linalg.vector_norm(self._shards.values).double().square().view(1)
        self._group.sum_(squares)
        return math.hypot(
            math.sqrt(float(squares)), float(torch.linalg.vector_norm(self._copies.values))
        )

    def give(self) -> None:
        """Make each piece the gradient of its weight."""
        for name, values in {**self._copies.pieces(), **self._shards.pieces()}.items():
            parameter = self._parameters[name]
            parameter.grad = _as_held(values, parameter.data).to(parameter.dtype)


class Flat:
    """Tensors as one float32 vector: one all-reduce, one noise, one division.

    Attributes:
        values: f32, all of them, in the order of the names.
    """

    def __init__(self, parts: Mapping[str, Tensor], device: torch.device) -> None:
        self._shapes = {name: part.shape for name, part in parts.items()}
        self.values = flattened(list(parts.values()), device)

    @classmethod
    def of(cls, values: Tensor, shapes: Mapping[str, torch.Size]) -> Flat:
        """Return a vector whose pieces are known."""
        flat = cls({}, values.device)
        flat.values, flat._shapes = values, dict(shapes)
        return flat

    def pieces(self) -> dict[str, Tensor]:
        """Return views by name, each in its own shape."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        split = torch.split(self.values, sizes) if sizes else ()
        return {
            name: piece.view(shape)
            for (name, shape), piece in zip(self._shapes.items(), split, strict=True)
        }


def flattened(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return tensors as one float32 vector, which may be empty."""
    flat = [part.reshape(-1).float() for part in parts]
    return torch.cat(flat) if flat else torch.zeros(0, device=device)


def _as_held(values: Tensor, whole: Tensor) -> Tensor:
    """Return a gradient as the weight is held: itself, or this rank's shard of a DTensor."""
    if not isinstance(whole, DTensor):
        return values
    return DTensor.from_local(
        values,
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def _own_shards(
    sums: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], group: Group
) -> Flat:
    """Add up over the ranks and return this rank's shards, by one reduce-scatter for all."""
    pieces: list[list[Tensor]] = [[] for _ in range(group.world)]
    for name, values in sums.items():
        dimension = _dimension(name, parameters[name].data, group)
        cut = torch.chunk(values, group.world, dimension)
        # Of a small weight the last ranks hold nothing.
        nothing = values.narrow(dimension, 0, 0)
        for rank in range(group.world):
            pieces[rank].append(cut[rank] if rank < len(cut) else nothing)
    own = {name: piece.shape for name, piece in zip(sums, pieces[group.rank], strict=True)}
    for name, shape in own.items():
        held = parameters[name].data
        if not isinstance(held, DTensor) or held.to_local().shape != shape:
            raise PrivacyError(f"the shard of {name} on rank {group.rank} is not the one expected")
    flat = [flattened(each, group.device) for each in pieces]
    longest = max(each.numel() for each in flat)
    everything = torch.cat([nn.functional.pad(each, (0, longest - each.numel())) for each in flat])
    mine = torch.empty(longest, device=group.device)
    dist.reduce_scatter_tensor(mine, everything)
    return Flat.of(mine[: sum(shape.numel() for shape in own.values())], own)


def _dimension(name: str, whole: Tensor, group: Group) -> int:
    """Return the dimension along which a weight is cut over all ranks."""
    if isinstance(whole, DTensor) and len(whole.placements) == 1:
        placement, mesh = whole.placements[0], whole.device_mesh
        own = mesh.size() == group.world and mesh.get_local_rank() == group.rank
        if type(placement) is Shard and own:
            return placement.dim
    raise PrivacyError(
        f"{name} is not cut along one dimension over all ranks, so that nobody can say who adds "
        "its noise; set distribution.strategy to ddp"
    )
