"""llama.cpp as a TokenBackend, through the low-level C API of llama-cpp-python.

It refuses a model whose KV cache cannot be shared and trimmed freely (recurrent and
hybrid ones, encoders). It never writes a log line: llama.cpp's own messages can quote
metadata and text, so they are counted by level and dropped.

Invariants:
  - One thread owns the context. The vocabulary is read-only and free for all threads.
  - The arrays of the batch are ours, made once, and the C struct points into them.
  - A row of logits is a view of llama.cpp's buffer: no copy, valid until `begin`.

llama.cpp may abort the process on a model or a state it did not expect (GGML_ASSERT).
Nothing here can catch that: it runs in a worker, and the worker's death is contained.

Settings. Decode tokens/s at 1 and at 16 sequences, Gemma 3 270M Q4_K_M, two Zen 4 cores
that other work shared; two rounds each, both shown.
As chosen: 91-98, 179-283. That spread is as wide as most differences, so these are
reasons first and measurements second:
  - Flash attention on: without it 89-90, 231-237, no difference that can be told apart.
  - Extra (repacked) weight buffers on: without them 92-93, 183-237, likewise.
  - Sliding-window layers with a full cache (`swa_full`), because a kept prefix can
    otherwise not be cut back beyond the window (Gemma: 512). Without it 63-68, 155-229.
    It costs memory: every layer holds every position.
  - Unified cache: sharing a prefix is metadata only; otherwise it aborts the process.
  - How long OpenMP's threads spin at a barrier is the environment's business, since it
    must be set before the library loads: see runtime/worker/launch.py.
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engine.backend import Logits
from runtime.engine.errors import DecodeError, LoadError, NoSlotError

# The loader would follow this variable to a shared library of somebody's choice.
os.environ.pop("GGML_BACKEND_PATH", None)

import llama_cpp
from llama_cpp import llama_cpp as c_api

from runtime.engine.llama_vocabulary import LlamaVocabulary

MAX_SEQUENCE_SLOTS = 255
"""llama.cpp has 256, and one is ours (see `_padding_rows`)."""

_NO_SLOT = 1
_TILE_ROWS = 4

log_counts: Counter[int] = Counter()
"""How many messages llama.cpp wanted to log in this process, by its level."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _count_log(level: int, _text: bytes, _user_data: Any) -> None:
    log_counts[level] += 1


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """How to load a model and how much it may hold.

    Attributes:
        kv_tokens: capacity of the KV cache, all sequences together; llama.cpp rounds it
            up to a multiple of 256, `LlamaBackend.kv_tokens` tells the result.
        context_tokens: longest sequence; at most what the model was trained for.
        sequence_slots: sequences that may hold KV cache at a time, running or kept.
        step_tokens: most tokens of one step.
        max_rows: most rows of logits of one step; each is vocabulary x 4 bytes.
        threads: 0 means as many as this process may run on.
    """

    kv_tokens: int
    context_tokens: int
    sequence_slots: int = 32
    step_tokens: int = 512
    max_rows: int = 64
    threads: int = 0

    def __post_init__(self) -> None:
        bounds = (
            ("kv_tokens", 1 <= self.kv_tokens <= 2**24),
            ("context_tokens", 1 <= self.context_tokens <= 2**24),
            ("sequence_slots", 1 <= self.sequence_slots <= MAX_SEQUENCE_SLOTS),
            ("step_tokens", 1 <= self.step_tokens <= 8192),
            ("max_rows", 1 <= self.max_rows <= 1024),
            ("threads", 0 <= self.threads <= 512),
        )
        for name, holds in bounds:
            if not holds:
                raise LoadError(f"{name}={getattr(self, name)} is out of range")


class LlamaBackend(LlamaVocabulary):
    """A loaded model and its KV cache; see `backend.TokenBackend` for the contract."""

    def __init__(self, path: str | Path, config: LlamaConfig) -> None:
        """Load the model, for example from "/proc/self/fd/7" (a sealed memory file).

        Raises:
            LoadError: llama.cpp refused it, or it is not a plain decoder.
        """
        self._context: Any = None
        self._model: Any = None
        c_api.llama_log_set(_count_log, ctypes.c_void_p(0))
        c_api.llama_backend_init()
        threads = config.threads or len(os.sched_getaffinity(0))
        self._model = _load_model(path, config)
        try:
            _check_architecture(self._model)
            super().__init__(c_api.llama_model_get_vocab(self._model))
            self._context = _new_context(self._model, config, threads)
        except LoadError:
            self.close()
            raise
        self._memory = c_api.llama_get_memory(self._context)
        self.context_tokens = min(
            config.context_tokens, int(c_api.llama_model_n_ctx_train(self._model))
        )
        self.kv_tokens = int(c_api.llama_n_ctx(self._context)) - _TILE_ROWS
        self.sequence_slots = config.sequence_slots
        self.step_tokens = config.step_tokens
        self.max_rows = config.max_rows
        self._make_batch(config.step_tokens + _TILE_ROWS)
        self._row_type = ctypes.c_float * self.vocabulary_size
        self._views: dict[int, Logits] = {}

    def _make_batch(self, size: int) -> None:
        """One set of arrays for the life of the backend; the struct points into them."""
        self._tokens = np.zeros(size, dtype=np.int32)
        self._positions = np.zeros(size, dtype=np.int32)
        self._slots = np.zeros(size, dtype=np.int32)
        self._wanted = np.zeros(size, dtype=np.int8)
        self._slot_counts = np.ones(size, dtype=np.int32)
        base = self._slots.ctypes.data
        self._slot_pointers = base + np.arange(size, dtype=np.uint64) * self._slots.itemsize
        self._filled = self._rows = 0
        as_int32 = ctypes.POINTER(ctypes.c_int32)
        self._batch = c_api.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(as_int32),
            embd=None,
            pos=self._positions.ctypes.data_as(as_int32),
            n_seq_id=self._slot_counts.ctypes.data_as(as_int32),
            seq_id=self._slot_pointers.ctypes.data_as(ctypes.POINTER(as_int32)),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def begin(self) -> None:
        """Start an empty step."""
        self._filled = self._rows = 0

    def add(
        self, slot: int, tokens: Sequence[int], position: int, *, every_row: bool, last_row: bool
    ) -> int:
        """Put tokens of one sequence into the step; see `TokenBackend.add`."""
        row = self._filled
        count = len(tokens)
        if count == 1:  # decoding: four scalar stores, no slices
            self._tokens[row] = tokens[0]
            self._positions[row] = position
            self._slots[row] = slot
            self._wanted[row] = every_row or last_row
            self._rows += every_row or last_row
            self._filled = row + 1
            return row
        end = row + count
        self._tokens[row:end] = tokens
        self._positions[row:end] = np.arange(position, position + count, dtype=np.int32)
        self._slots[row:end] = slot
        self._wanted[row:end] = every_row
        self._wanted[end - 1] = every_row or last_row
        self._rows += count if every_row else last_row
        self._filled = end
        return row

    def decode(self) -> None:
        """Run the step; the GIL is free meanwhile."""
        padding = _padding_rows(self._rows) if self._rows == self._filled else 0
        self._pad(padding)
        status = c_api.llama_decode(self._context, self._batch)
        if padding:
            c_api.llama_memory_seq_rm(self._memory, self.sequence_slots, -1, -1)
        if status == _NO_SLOT:
            raise NoSlotError("the KV cache has no room for the step")
        if status != 0:
            raise DecodeError(f"llama_decode returned {status}")

    def _pad(self, count: int) -> None:
        """Fill the step up with tokens of a sequence that nobody has; see `_padding_rows`."""
        row, end = self._filled, self._filled + count
        self._tokens[row:end] = 0
        self._positions[row:end] = np.arange(count, dtype=np.int32)
        self._slots[row:end] = self.sequence_slots
        self._wanted[row:end] = True
        self._batch.n_tokens = end

    def logits(self, row: int) -> Logits:
        """float32[vocabulary_size] after that row's token; a view until `begin`."""
        pointer = c_api.llama_get_logits_ith(self._context, row)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if address is None:
            raise DecodeError("llama.cpp kept no logits for a row that asked for them")
        view = self._views.get(address)
        if view is None:
            # A view is an address and a length; llama.cpp keeps its buffer for the life
            # of the context unless it has to grow, and then hands out other addresses.
            view = np.ctypeslib.as_array(self._row_type.from_address(address))
            self._views[address] = view
        return view

    def forget(self, slot: int, start: int = 0) -> None:
        """Remove a sequence's positions from `start` on."""
        c_api.llama_memory_seq_rm(self._memory, slot, start, -1)

    def share(self, source: int, target: int, length: int) -> None:
        """Metadata only, because the cache is unified: no key or value is copied."""
        c_api.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def close(self) -> None:
        """Free the context and the model."""
        self._views = {}
        if self._context is not None:
            c_api.llama_free(self._context)
            self._context = None
        if self._model is not None:
            c_api.llama_model_free(self._model)
            self._model = None


def _padding_rows(rows: int) -> int:
    """How many rows to add so that the output layer's kernel takes whole tiles.

    llama.cpp multiplies the output layer in tiles of four rows and reads all of its
    weights once more for a remainder. Decode steps of Gemma 3 270M on two cores, ms:

        rows   4   5   6   7   8   9  10  11  12  13  14  15  16
              32  46  51  57  39  55  59  65  50  65  70  75  51

    Below five rows a remainder is cheaper than the padding.
    """
    return -rows % _TILE_ROWS if rows > _TILE_ROWS else 0


def _load_model(path: str | Path, config: LlamaConfig) -> Any:
    params = c_api.llama_model_default_params()
    params.n_gpu_layers = 0
    params.load_mode = c_api.LLAMA_LOAD_MODE_MMAP
    params.use_extra_bufts = True
    model = c_api.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise LoadError("llama.cpp could not load the model file")
    return model


def _check_architecture(model: Any) -> None:
    if (
        not c_api.llama_model_has_decoder(model)
        or c_api.llama_model_has_encoder(model)
        or c_api.llama_model_is_recurrent(model)
        or c_api.llama_model_is_hybrid(model)
        or c_api.llama_model_is_diffusion(model)
    ):
        raise LoadError("the model is not a plain decoder with a KV cache")


def _new_context(model: Any, config: LlamaConfig, threads: int) -> Any:
    params = c_api.llama_context_default_params()
    # Room for the padding of a step, and one more sequence that it belongs to.
    params.n_ctx = config.kv_tokens + _TILE_ROWS
    params.n_batch = config.step_tokens + _TILE_ROWS
    params.n_ubatch = config.step_tokens + _TILE_ROWS
    params.n_seq_max = config.sequence_slots + 1
    params.n_threads = threads
    params.n_threads_batch = threads
    params.flash_attn_type = c_api.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.offload_kqv = False
    params.op_offload = False
    params.no_perf = True
    params.swa_full = True
    params.kv_unified = True
    # llama.cpp aborts the process when this is below the number of sequences.
    params.n_outputs_max = max(config.max_rows, config.sequence_slots) + _TILE_ROWS
    context = c_api.llama_init_from_model(model, params)
    if not context:
        raise LoadError("llama.cpp could not make a context of that size")
    return context
