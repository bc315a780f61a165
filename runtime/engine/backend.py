"""What the engine needs of a language model: tokens in, logits out, a KV cache between.

`llama.py` implements it with llama.cpp, `memory.py` with a few rules over bytes, so
that scheduling is tested without native code.

Concurrency: the vocabulary half (`tokenize`, `piece`, `is_end` ...) may be called from
any thread at any time; everything else belongs to the one thread that owns the backend.

Ordering: `begin`, then `add` once per sequence and step, then `decode`, then `logits`
by the row numbers that `add` returned, valid until the next `begin`. The KV cache holds
for a sequence exactly the positions decoded and not removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


class Vocabulary(Protocol):
    """The tokenizer half of a model; safe from any thread."""

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens, which is the length of a row of logits."""

    @property
    def bos(self) -> int | None:
        """The token every prompt starts with, or None when the model wants none."""

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Control tokens by how they are spelled in a template."""

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text as plain text: no BOS, and never a control token."""

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; empty for control tokens."""

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""


class TokenBackend(Vocabulary, Protocol):
    """A model with its KV cache."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence, prompt and answer together, in tokens."""

    @property
    def kv_tokens(self) -> int:
        """Capacity of the KV cache in tokens, all sequences together."""

    @property
    def sequence_slots(self) -> int:
        """Sequence numbers 0 to this (exclusive) may hold KV cache at a time."""

    @property
    def step_tokens(self) -> int:
        """Most tokens one `decode` takes."""

    @property
    def max_rows(self) -> int:
        """Most rows of logits one `decode` can give."""

    def begin(self) -> None:
        """Start an empty step; rows of the step before become invalid."""

    def add(
        self, slot: int, tokens: Sequence[int], position: int, *, every_row: bool, last_row: bool
    ) -> int:
        """Put tokens of one sequence, from `position` on, into the step.

        Returns the number of the first token's row. `every_row` asks for logits after
        each of the tokens, `last_row` after the last one alone.
        """

    def decode(self) -> None:
        """Run the step.

        Raises:
            NoSlotError: the cache has no room; the cache is as before the step.
            DecodeError: it failed; the step's sequences may hold any part of it.
        """

    def logits(self, row: int) -> Logits:
        """float32[vocabulary_size] after the token with that row; a view, not to be kept."""

    def forget(self, slot: int, start: int = 0) -> None:
        """Remove a sequence's positions from `start` on."""

    def share(self, source: int, target: int, length: int) -> None:
        """Let an empty sequence begin with the first `length` positions of another."""

    def close(self) -> None:
        """Free everything; the backend must not be used afterwards."""
