"""Who runs, and what each step computes. Two queues and a ledger of KV cache.

Admission: a request runs once its whole need (prompt and max_tokens) fits beside what
the running ones have set aside, so nobody runs out of cache half-way and nobody is
ever preempted. Kept prefixes fill the rest and give way, oldest first. The next to be
admitted is the waiting request whose tenant has the fewest running, the earliest among
equals; if it does not fit, nobody overtakes it, so it cannot starve.

A turn is one step with a token for everyone who is decoding, then steps with prompts in
the order of their admission, up to `prefill_turn_tokens`, then texts to score, up to
`score_step_rows`. The first prompt is finished before the second gets a token:
interleaving them would make every one of them as late as the last.

Why these are steps of their own: llama.cpp computes attention for the rows of a large
batch in tiles of 64, each against every cache position that any row of the tile may see.
A tile with the next tokens of 15 sequences sees all 15 caches for all its rows; at 16
clients that cost about 200 ms a step (Gemma 3 270M, two cores), where reading the layers'
weights once more costs about 5. Two prompts in one tile cost each other some 10%, so only
prompts that fit into a tile together share a step.

Pure but for the cache: it decides, and tells the `KvCache` what to share and forget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.engine.config import EngineConfig
from runtime.engine.prefix import KeptPrefix, PrefixCache, common_prefix
from runtime.engine.sequence import NO_SLOT, Sequence

# Query rows of a tile in llama.cpp's attention on the CPU.
_TILE_TOKENS = 64


class KvCache(Protocol):
    """The part of a backend that the scheduler needs; see `TokenBackend`."""

    def forget(self, slot: int, start: int = 0) -> None:
        """Remove a sequence's positions from `start` on."""

    def share(self, source: int, target: int, length: int) -> None:
        """Let an empty sequence begin with another's first positions."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` tokens of one sequence, from its `computed` on, for one step."""

    sequence: Sequence
    count: int


class Scheduler:
    """Owned by the engine's thread."""

    def __init__(
        self,
        cache: KvCache,
        config: EngineConfig,
        *,
        kv_tokens: int,
        sequence_slots: int,
        step_tokens: int,
        max_rows: int,
    ) -> None:
        self._cache = cache
        self._config = config
        self._kv_tokens = kv_tokens
        self._step_tokens = step_tokens
        self._max_rows = max_rows
        self._max_running = min(config.max_sequences, sequence_slots, step_tokens, max_rows)
        self._free_slots = list(range(sequence_slots - 1, -1, -1))
        self._kept = PrefixCache()
        self._reserved_tokens = 0
        self._running_per_tenant: dict[bytes, int] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.prefix_queries = 0
        self.prefix_hits = 0

    @property
    def kv_tokens_used(self) -> int:
        """What running requests hold and what is kept; shared positions count twice."""
        held = sum(sequence.computed for sequence in self.running) + self._kept.tokens_held
        return min(held, self._kv_tokens)

    def admit(self, now: float) -> list[Sequence]:
        """Move waiting requests to the running ones while they fit."""
        admitted = []
        while self.waiting and len(self.running) < self._max_running:
            sequence = min(
                self.waiting,
                key=lambda waiting: self._running_per_tenant.get(waiting.tenant, 0),
            )
            if self._reserved_tokens + sequence.reserve_tokens > self._kv_tokens:
                break
            self.waiting.remove(sequence)
            self._place(sequence)
            sequence.queue_ms = int((now - sequence.arrived) * 1000)
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def _place(self, sequence: Sequence) -> None:
        """Give a sequence a slot, its reservation, and what is known of its prefix."""
        source, length, kept = self._find_prefix(sequence)
        self._reserved_tokens += sequence.reserve_tokens
        tenant = sequence.tenant
        self._running_per_tenant[tenant] = self._running_per_tenant.get(tenant, 0) + 1
        self._evict_until_fits(spare=source if kept else None)
        if kept is not None and (
            length == len(kept.tokens) or self._over_capacity() or not self._free_slots
        ):
            # It is used whole, or there is no room for both: take it over, do not share.
            self._kept.take(source)
            self._cache.forget(source, length)
            sequence.slot = source
        else:
            sequence.slot = self._free_slots.pop()
            if length:
                self._cache.share(source, sequence.slot, length)
        sequence.computed = sequence.cached = length

    def _find_prefix(self, sequence: Sequence) -> tuple[int, int, KeptPrefix | None]:
        """Slot and length of the tenant's longest known prefix, and its entry if kept."""
        prompt = sequence.reusable_prompt() if self._config.prefix_reuse else None
        if prompt is None:
            return NO_SLOT, 0, None
        self.prefix_queries += len(prompt) + 1
        kept, length = self._kept.longest(sequence.tenant, prompt)
        source = NO_SLOT if kept is None else kept.slot
        for other in self.running:
            if other.tenant != sequence.tenant or other.every_row or other.computed <= length:
                continue
            held = np.array(other.tokens[: other.computed], dtype=np.int32)
            if (common := common_prefix(held, prompt)) > length:
                source, length, kept = other.slot, common, None
        if length < self._config.prefix_min_tokens:
            return NO_SLOT, 0, None
        if kept is not None:
            self._kept.touch(kept.slot)
        self.prefix_hits += length
        return source, length, kept

    def _over_capacity(self) -> bool:
        return self._reserved_tokens + self._kept.tokens_held > self._kv_tokens

    def _evict_until_fits(self, spare: int | None) -> None:
        while self._over_capacity() or not self._free_slots:
            oldest = self._kept.oldest(other_than=spare)
            if oldest is None:
                return
            self._evict(oldest)

    def _evict(self, slot: int) -> None:
        self._kept.take(slot)
        self._cache.forget(slot)
        self._free_slots.append(slot)

    def evict_all(self) -> bool:
        """Drop everything kept; whether there was anything."""
        had_any = len(self._kept) > 0
        while (oldest := self._kept.oldest()) is not None:
            self._evict(oldest)
        return had_any

    def plan(self) -> list[list[Chunk]]:
        """The steps of the next turn, one after the other; empty when nothing runs."""
        decoding = [Chunk(sequence, 1) for sequence in self.running if _is_decoding(sequence)]
        return [step for step in (decoding, *self._prefill(), self._scoring()) if step]

    def _prefill(self) -> list[list[Chunk]]:
        steps: list[list[Chunk]] = []
        left, room = self._config.prefill_turn_tokens, 0
        for sequence in self._prompts(every_row=False):
            count = min(left, self._step_tokens, sequence.pending)
            # Only the first is cut: each chunk reads the weights again.
            if count == 0 or (steps and count < sequence.pending):
                break
            left -= count
            if count > room or len(steps[-1]) == self._max_rows:
                steps.append([])
                room = _TILE_TOKENS
            steps[-1].append(Chunk(sequence, count))
            room = max(0, room - count)
        return steps

    def _scoring(self) -> list[Chunk]:
        chunks = []
        left = min(self._step_tokens, self._max_rows, self._config.score_step_rows)
        for sequence in self._prompts(every_row=True):
            if left == 0:
                break
            count = min(left, sequence.pending)
            chunks.append(Chunk(sequence, count))
            left -= count
        return chunks

    def _prompts(self, *, every_row: bool) -> Iterator[Sequence]:
        return (
            sequence
            for sequence in self.running
            if sequence.every_row == every_row and not _is_decoding(sequence)
        )

    def finish(self, sequence: Sequence, *, keep: bool) -> None:
        """Take a running sequence out; with `keep` its cache may serve its tenant again."""
        self.running.remove(sequence)
        self._reserved_tokens -= sequence.reserve_tokens
        left = self._running_per_tenant[sequence.tenant] - 1
        if left:
            self._running_per_tenant[sequence.tenant] = left
        else:
            del self._running_per_tenant[sequence.tenant]
        keep = (
            keep
            and self._config.prefix_reuse
            and not sequence.every_row
            and sequence.computed >= self._config.prefix_min_tokens
        )
        if keep:
            self._kept.keep(sequence.slot, sequence.tenant, sequence.tokens[: sequence.computed])
        else:
            self._cache.forget(sequence.slot)
            self._free_slots.append(sequence.slot)
        sequence.slot = NO_SLOT


def _is_decoding(sequence: Sequence) -> bool:
    return sequence.pending == 1 and not sequence.every_row
