"""A language model of a few rules, in memory: the TokenBackend that tests run against.

It implements the whole contract and checks the caller's half of it: a step that does
not continue a sequence where its cache ends is a DecodeError, as are too many tokens,
rows or slots. Capacity is counted in cells; a cell shared by several sequences counts
once, as in a unified cache. It can be told to fail.

The model: tokens are the 256 bytes, BOS, and the two control tokens of a chat turn.
What comes next depends on every token the cache holds, in order, so a sequence that
was given somebody else's cache, or a hole, answers differently. A `scripts` entry makes
it answer a prompt that ends with given bytes with given bytes and the end of the turn.

Never loaded by a worker.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.engine.backend import Logits
from runtime.engine.errors import DecodeError, NoSlotError

BOS = 256
TURN_START = 257
TURN_END = 258
VOCABULARY_SIZE = 259
_LETTERS = b"abcdefghijklmnopqrstuvwxyz ,."


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's part of a step."""

    slot: int
    tokens: tuple[int, ...] = field(repr=False)
    position: int
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Cell:
    """One position of the cache; sequences that share it hold the same object."""

    token: int


class MemoryBackend:
    """See the module; `steps` is the log of every step that was asked for.

    Attributes:
        before_decode: called with the step's parts on the engine's thread before each
            step; may raise DecodeError or NoSlotError in the model's place.
    """

    def __init__(
        self,
        *,
        kv_tokens: int = 4096,
        context_tokens: int = 512,
        sequence_slots: int = 32,
        step_tokens: int = 256,
        max_rows: int = 64,
        scripts: Mapping[bytes, bytes] | None = None,
        bos: int | None = BOS,
    ) -> None:
        self.kv_tokens = kv_tokens
        self.context_tokens = context_tokens
        self.sequence_slots = sequence_slots
        self.step_tokens = step_tokens
        self.max_rows = max_rows
        self.vocabulary_size = VOCABULARY_SIZE
        self.bos = bos
        self.control_tokens: Mapping[str, int] = {
            "<bos>": BOS,
            "<turn>": TURN_START,
            "<end>": TURN_END,
        }
        self.steps: list[tuple[Part, ...]] = []
        self.before_decode: Callable[[tuple[Part, ...]], None] | None = None
        self.closed = False
        self._scripts = dict(scripts or {})
        self._cells: dict[int, list[_Cell]] = {}
        self._parts: list[Part] = []
        self._logits: dict[int, Logits] = {}

    # --- vocabulary -----------------------------------------------------------------

    def tokenize(self, text: str) -> list[int]:
        """The text's bytes."""
        return list(text.encode("utf-8"))

    def piece(self, token: int) -> bytes:
        """The byte; nothing for a control token."""
        return bytes([token]) if token < BOS else b""

    def is_end(self, token: int) -> bool:
        """Whether it is the end of a turn."""
        return token == TURN_END

    # --- steps ----------------------------------------------------------------------

    def begin(self) -> None:
        """Start an empty step."""
        self._parts = []
        self._logits = {}

    def add(
        self, slot: int, tokens: Sequence[int], position: int, *, every_row: bool, last_row: bool
    ) -> int:
        """Put tokens of one sequence into the step."""
        first = sum(len(part.tokens) for part in self._parts)
        last = first + len(tokens) - 1
        rows = range(first, last + 1) if every_row else (last,) if last_row else ()
        self._parts.append(Part(slot, tuple(tokens), position, tuple(rows)))
        return first

    def decode(self) -> None:
        """Run the step, checking that it continues what the cache holds."""
        parts = tuple(self._parts)
        self.steps.append(parts)
        if self.before_decode is not None:
            self.before_decode(parts)
        self._check(parts)
        first = 0
        for part in parts:
            cells = self._cells.setdefault(part.slot, [])
            for index, token in enumerate(part.tokens):
                cells.append(_Cell(token))
                if first + index in part.rows:
                    self._logits[first + index] = self._next([cell.token for cell in cells])
            first += len(part.tokens)

    def _check(self, parts: tuple[Part, ...]) -> None:
        tokens = sum(len(part.tokens) for part in parts)
        if not parts or tokens > self.step_tokens:
            raise DecodeError(f"a step of {tokens} tokens")
        if sum(len(part.rows) for part in parts) > self.max_rows:
            raise DecodeError("too many rows of logits")
        if len({part.slot for part in parts}) != len(parts):
            raise DecodeError("a sequence is in the step twice")
        for part in parts:
            if not part.tokens or not 0 <= part.slot < self.sequence_slots:
                raise DecodeError("an empty part, or no such slot")
            if part.position != len(self._cells.get(part.slot, [])):
                raise DecodeError("the part does not continue its sequence")
        if self.cells_used + tokens > self.kv_tokens:
            raise NoSlotError("the KV cache has no room for the step")

    def logits(self, row: int) -> Logits:
        """The row, which must have been asked for."""
        if row not in self._logits:
            raise DecodeError("no logits were asked for in that row")
        return self._logits[row]

    # --- the cache ------------------------------------------------------------------

    @property
    def cells_used(self) -> int:
        """Cells in use; a shared one counts once."""
        return len({id(cell) for cells in self._cells.values() for cell in cells})

    def held(self, slot: int) -> list[int]:
        """The tokens whose cache a slot holds."""
        return [cell.token for cell in self._cells.get(slot, [])]

    def forget(self, slot: int, start: int = 0) -> None:
        """Remove a sequence's positions from `start` on."""
        self._cells[slot] = self._cells.get(slot, [])[:start]

    def share(self, source: int, target: int, length: int) -> None:
        """Let an empty sequence begin with another's first positions."""
        if self._cells.get(target):
            raise DecodeError("the target is not empty")
        self._cells[target] = self._cells.get(source, [])[:length]

    def close(self) -> None:
        """Forget everything."""
        self._cells = {}
        self.closed = True

    # --- the model ------------------------------------------------------------------

    def _next(self, history: list[int]) -> Logits:
        """Logits from the whole history: pseudo-random, or what a script says."""
        data = np.array(history, dtype=np.int32).tobytes()
        random = np.random.Generator(np.random.PCG64(zlib.crc32(data)))
        logits = np.full(VOCABULARY_SIZE, -8.0, dtype=np.float32)
        logits[list(_LETTERS)] = random.normal(size=len(_LETTERS)).astype(np.float32)
        scripted = self._scripted(history)
        if scripted is not None:
            logits[scripted] = 30.0
        return logits

    def _scripted(self, history: list[int]) -> int | None:
        # Control tokens are one byte here, so that positions stay aligned.
        text = bytes(min(token, 255) for token in history)
        for prompt, answer in self._scripts.items():
            start = text.rfind(prompt)
            if start < 0:
                continue
            said = text[start + len(prompt) :]
            if answer.startswith(said):
                return answer[len(said)] if len(said) < len(answer) else TURN_END
        return None
