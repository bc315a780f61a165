"""KV cache that ended requests left behind, for the same tenant's next request.

Refuses to look across tenants: entries of another tenant are not compared, so neither
the result nor the time spent tells whether somebody else asked the same thing.

Invariant: a kept entry's tokens are exactly the positions its slot holds in the cache.
The order is least recently used first; the owner evicts under pressure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

TokenArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class KeptPrefix:
    """One kept sequence: where it lies and what it holds."""

    slot: int
    tenant: bytes = field(repr=False)
    tokens: TokenArray = field(repr=False)


def common_prefix(left: TokenArray, right: TokenArray) -> int:
    """Number of leading tokens that two int32 arrays share."""
    length = min(len(left), len(right))
    different = left[:length] != right[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length


class PrefixCache:
    """Kept sequences, least recently used first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, KeptPrefix] = OrderedDict()
        self.tokens_held = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, slot: int, tenant: bytes, tokens: Sequence[int]) -> None:
        """Remember an ended sequence as the most recently used."""
        self._kept[slot] = KeptPrefix(slot, tenant, np.array(tokens, dtype=np.int32))
        self.tokens_held += len(tokens)

    def longest(self, tenant: bytes, tokens: TokenArray) -> tuple[KeptPrefix | None, int]:
        """This tenant's entry with the longest common prefix, and that prefix's length."""
        best: KeptPrefix | None = None
        best_length = 0
        for kept in reversed(self._kept.values()):
            if kept.tenant != tenant:
                continue
            length = common_prefix(kept.tokens, tokens)
            if length > best_length:
                best, best_length = kept, length
        return best, best_length

    def touch(self, slot: int) -> None:
        """Make an entry the most recently used."""
        self._kept.move_to_end(slot)

    def take(self, slot: int) -> KeptPrefix:
        """Remove an entry; its slot and cache now belong to the caller."""
        kept = self._kept.pop(slot)
        self.tokens_held -= len(kept.tokens)
        return kept

    def oldest(self, *, other_than: int | None = None) -> int | None:
        """Slot of the least recently used entry, or None."""
        return next((slot for slot in self._kept if slot != other_than), None)
