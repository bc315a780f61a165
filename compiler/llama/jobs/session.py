"""A model and a context of llama.cpp, for jobs that run tokens through a model.

The settings that change results or speed are those of the appliance's engine: unified
cache, sliding-window layers with a full cache, no GPU. Rows of logits are views of
llama.cpp's buffer, valid until the next `decode`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as c_api
from numpy.typing import NDArray

from compiler.errors import ChildError, SourceError

_ERROR_LEVEL = 4


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
def _log(level: int, text: bytes, _user_data: Any) -> None:
    # The parent keeps the last line, to say why a child died.
    if level == _ERROR_LEVEL:
        sys.stderr.write(text.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a context is made; `rows` is the most rows of logits of one decode."""

    context_tokens: int = 512
    batch_tokens: int = 512
    sequences: int = 1
    rows: int = 64
    threads: int = 1
    flash: bool = True
    extra_buffers: bool = True
    without_weights: bool = False


def quiet() -> None:
    """Send llama.cpp's errors to stderr and drop the rest of its messages."""
    c_api.llama_log_set(_log, ctypes.c_void_p(0))
    c_api.llama_backend_init()


class Session:
    """Loads a model; frees it at the end of a `with` block."""

    def __init__(self, path: str, config: SessionConfig, on_node: Any = None) -> None:
        """Load the model and make a context.

        Args:
            path: a GGUF file that the pre-parser has accepted.
            config: see there.
            on_node: a `ggml_backend_sched_eval_callback`, asked for every node.

        Raises:
            SourceError: llama.cpp refuses the file, or the context does not fit.
        """
        quiet()
        params = c_api.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = config.extra_buffers
        params.vocab_only = config.without_weights
        self._context: Any = None
        self._model = c_api.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise SourceError(f"{path}: llama.cpp cannot load it")
        self.vocabulary = c_api.llama_model_get_vocab(self._model)
        self.size = int(c_api.llama_vocab_n_tokens(self.vocabulary))
        self.trained_context = int(c_api.llama_model_n_ctx_train(self._model))
        if config.without_weights:
            return
        self._context = self._make_context(config, on_node)
        if not self._context:
            c_api.llama_model_free(self._model)
            raise SourceError(f"{path}: llama.cpp cannot make a context for it")
        self._memory = c_api.llama_get_memory(self._context)
        self._batch = c_api.llama_batch_init(config.batch_tokens, 0, 1)

    def _make_context(self, config: SessionConfig, on_node: Any) -> Any:
        params = c_api.llama_context_default_params()
        params.n_ctx = config.context_tokens
        params.n_batch = params.n_ubatch = config.batch_tokens
        params.n_seq_max = config.sequences
        params.n_threads = params.n_threads_batch = config.threads
        params.flash_attn_type = (
            c_api.LLAMA_FLASH_ATTN_TYPE_ENABLED
            if config.flash
            else c_api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.offload_kqv = False
        params.op_offload = False
        params.no_perf = True
        params.swa_full = True
        params.kv_unified = True
        # llama.cpp aborts the process when this is below the number of sequences.
        params.n_outputs_max = max(config.rows, config.sequences)
        if on_node is not None:
            params.cb_eval = on_node
        return c_api.llama_init_from_model(self._model, params)

    def clear(self) -> None:
        """Forget every sequence."""
        c_api.llama_memory_clear(self._memory, False)

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        wanted: Sequence[bool],
    ) -> None:
        """Run one batch.

        Raises:
            ChildError: llama.cpp reports a failure.
        """
        batch = self._batch
        batch.n_tokens = len(tokens)
        rows = zip(tokens, positions, slots, wanted, strict=True)
        for index, (token, position, slot, want) in enumerate(rows):
            batch.token[index] = token
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = slot
            batch.logits[index] = want
        status = c_api.llama_decode(self._context, batch)
        if status != 0:
            raise ChildError(f"llama_decode returned {status}")

    def prefill(self, tokens: Sequence[int], start: int, *, wanted: bool) -> None:
        """Run consecutive tokens of the first sequence, with or without logits."""
        count = len(tokens)
        self.decode(tokens, range(start, start + count), [0] * count, [wanted] * count)

    def logits(self, rows: int) -> NDArray[np.float32]:
        """Return float32[rows, vocabulary] of the last decode, all wanted rows in order."""
        pointer = c_api.llama_get_logits(self._context)
        if not pointer:
            raise ChildError("llama.cpp kept no logits")
        return np.ctypeslib.as_array(pointer, (rows, self.size))

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a text, its first token added where the model wants one."""
        data = text.encode()
        buffer = (llama_cpp.llama_token * (len(data) + 8))()
        count = c_api.llama_tokenize(
            self.vocabulary, data, len(data), buffer, len(buffer), True, False
        )
        if count < 0:
            raise ChildError("llama.cpp could not tokenize the text")
        return list(buffer[:count])

    def first_token(self) -> int | None:
        """Return the token that begins a sequence, or None where the model wants none."""
        if not c_api.llama_vocab_get_add_bos(self.vocabulary):
            return None
        return int(c_api.llama_vocab_bos(self.vocabulary))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._context is not None:
            c_api.llama_batch_free(self._batch)
            c_api.llama_free(self._context)
        c_api.llama_model_free(self._model)
