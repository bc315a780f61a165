"""Small messages between ranks: JSON over a gloo group, never pickle.

torch's own object collectives pickle what they send, and unpickle what a peer sent. What
ranks tell one another here are numbers and names, so they are JSON: nothing that a rank
receives can be more than data.

A channel owns its process group. Two threads must not share a channel, because a group's
collectives pair up in the order in which they are called.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Channel:
    """Collective exchange of JSON values; every rank calls each method, in the same order."""

    def __init__(self, rank: int, world: int, group: dist.ProcessGroup | None) -> None:
        """`group` is a gloo group of all ranks; None for a single rank without one."""
        self.rank = rank
        self.world = world
        self.group = group

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.group is not None:
            dist.barrier(group=self.group)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value (JSON types; tuples come back as lists) on every rank."""
        return self.gather(value if self.rank == 0 else None)[0]

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value (JSON types), by rank, on every rank."""
        data = json.dumps(value, allow_nan=True).encode()
        if self.group is None:
            return [json.loads(data)]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self.group)
        longest = max(int(size) for size in sizes)
        own = torch.zeros(longest, dtype=torch.uint8)
        own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(parts, own, group=self.group)
        return [_decode(part, int(size)) for part, size in zip(parts, sizes, strict=True)]


def _decode(part: Tensor, size: int) -> Any:
    return json.loads(part[:size].numpy().tobytes())
