"""The engine beside the least that llama.cpp needs: a static batch in a bare C-API loop.

The bare loop prefills all prompts, then decodes one token for each, greedily, until all
are done; nobody joins or leaves, nothing is detokenized, nobody is told. It is a
baseline for a server on the same file and settings. The engine runs closed-loop clients
in process, through its public interface. Both alternate in one run, since speed here
drifts from minute to minute; the ratio of the best rounds is what counts.

    python -m benchmarks.bare_loop build/models/gemma-3-270m-q4_k_m.gguf [--rounds 3]
"""

from __future__ import annotations

import argparse
import ctypes
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.load import percentile
from benchmarks.prompts import prompts
from runtime.engine.config import EngineConfig
from runtime.engine.generation import GenerationEngine
from runtime.engine.llama import LlamaBackend, LlamaConfig
from runtime.engine.types import Delta, Event, GenerateRequest, TextPrompt

# isort: off
import llama_cpp  # after the engine: it clears GGML_BACKEND_PATH first

CLIENTS = (1, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Result:
    """What one round gave; tokens/s counts answers over the whole round, prefill too."""

    clients: int
    tokens_per_second: float
    decode_tokens_per_second: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    inter_token_p99_ms: float


def _summary(
    clients: int, seconds: float, decoding: float, firsts: list[float], gaps: list[float], n: int
) -> Result:
    return Result(
        clients=clients,
        tokens_per_second=n / seconds,
        decode_tokens_per_second=n / decoding if decoding else 0.0,
        ttft_p50_ms=percentile(firsts, 0.5) * 1e3,
        ttft_p99_ms=percentile(firsts, 0.99) * 1e3,
        inter_token_p99_ms=percentile(gaps, 0.99) * 1e3,
    )


class BareLoop:
    """A context of its own, and nothing else."""

    def __init__(self, gguf: Path, *, clients: int, tokens: int) -> None:
        quiet = self._quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(
            str(gguf).encode(), llama_cpp.llama_model_default_params()
        )
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = clients * tokens
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = clients
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a prompt, BOS first."""
        data = text.encode()
        buffer = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(
            self._vocabulary, data, len(data), buffer, len(buffer), True, False
        )
        return list(buffer[:count])

    def run(self, prompt_tokens: Sequence[list[int]], new_tokens: int) -> Result:
        """Prefill all, then decode all in step."""
        clients = len(prompt_tokens)
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, False)
        begin = time.perf_counter()
        latest, firsts = [], []
        for slot, tokens in enumerate(prompt_tokens):
            self._batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                self._put(index, token, index, slot, index == len(tokens) - 1)
            self._decode()
            latest.append(self._best(len(tokens) - 1))
            firsts.append(time.perf_counter() - begin)
        last = decoding = time.perf_counter()
        gaps = []
        for step in range(new_tokens - 1):
            self._batch.n_tokens = clients
            for slot, token in enumerate(latest):
                self._put(slot, token, len(prompt_tokens[slot]) + step, slot, True)
            self._decode()
            latest = [self._best(slot) for slot in range(clients)]
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
        total = clients * new_tokens
        return _summary(clients, last - begin, last - decoding, firsts, gaps, total)

    def _put(self, index: int, token: int, position: int, slot: int, wanted: bool) -> None:
        batch = self._batch
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = slot
        batch.logits[index] = wanted

    def _decode(self) -> None:
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")

    def _best(self, row: int) -> int:
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(pointer, (self._size,)).argmax())

    def close(self) -> None:
        """Free everything."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def run(gguf: Path, clients: int, prompt_tokens: int = 110, new_tokens: int = 64) -> Result:
    """One round of the bare loop in a context of its own."""
    texts = prompts(gguf, count=clients, tokens=prompt_tokens - 1)
    loop = BareLoop(gguf, clients=clients, tokens=prompt_tokens + new_tokens + 8)
    try:
        tokens = [loop.tokenize(text) for text in texts]
        loop.run(tokens, 4)
        return loop.run(tokens, new_tokens)
    finally:
        loop.close()


class EngineClients:
    """The engine in process, with closed-loop clients."""

    def __init__(
        self,
        gguf: Path,
        config: EngineConfig | None = None,
        settings: LlamaConfig | None = None,
    ) -> None:
        settings = settings or LlamaConfig(kv_tokens=8192, context_tokens=2048)
        backend = LlamaBackend(gguf, settings)
        self._engine = GenerationEngine(backend, config or EngineConfig())
        self._engine.start()
        self._next_id = 0

    def run(self, texts: Sequence[str], new_tokens: int, requests: int = 1) -> Result:
        """Each client sends its prompt `requests` times, one after the other."""
        firsts: list[float] = []
        gaps: list[float] = []
        begin = time.perf_counter()
        total = self._wave(texts, new_tokens, requests, firsts, gaps)
        seconds = time.perf_counter() - begin
        return _summary(len(texts), seconds, seconds - max(firsts), firsts, gaps, total)

    def _wave(
        self,
        texts: Sequence[str],
        new_tokens: int,
        requests: int,
        firsts: list[float],
        gaps: list[float],
    ) -> int:
        left = len(texts)
        made = 0
        ended = threading.Event()

        def send(text: str, remaining: int) -> None:
            self._next_id += 1
            # A tenant of its own: no round may find what the one before left behind.
            tenant = self._next_id.to_bytes(8, "big")
            sent = time.perf_counter()
            last: float | None = None

            def emit(event: Event) -> None:
                nonlocal last, left, made
                now = time.perf_counter()
                if isinstance(event, Delta):
                    (firsts if last is None else gaps).append(now - (last or sent))
                    last = now
                    return
                made += event.usage.completion_tokens if hasattr(event, "usage") else 0
                if remaining > 1:
                    send(text, remaining - 1)
                    return
                left -= 1
                if not left:
                    ended.set()

            request = GenerateRequest(
                self._next_id, tenant, TextPrompt(text), max_tokens=new_tokens
            )
            self._engine.submit(request, emit)

        for text in texts:
            send(text, requests)
        ended.wait()
        return made

    def close(self) -> None:
        """Stop the engine."""
        self._engine.close()


def compare(
    gguf: Path, rounds: int, prompt_tokens: int, new_tokens: int
) -> Iterator[dict[str, float]]:
    """Alternate both at each number of clients; the best round of each, and their ratio."""
    everything = prompts(gguf, count=max(CLIENTS), tokens=prompt_tokens - 1)
    engine = EngineClients(gguf)
    bare = BareLoop(gguf, clients=max(CLIENTS), tokens=prompt_tokens + new_tokens + 8)
    for clients in CLIENTS:
        texts = everything[:clients]
        tokens = [bare.tokenize(text) for text in texts]
        engine.run(texts[:1], 4)
        pairs = [
            (bare.run(tokens, new_tokens), engine.run(texts, new_tokens)) for _ in range(rounds)
        ]
        floor = max((pair[0] for pair in pairs), key=lambda result: result.tokens_per_second)
        ours = max((pair[1] for pair in pairs), key=lambda result: result.tokens_per_second)
        yield {
            "clients": clients,
            "bare_tokens_per_second": round(floor.tokens_per_second, 1),
            "engine_tokens_per_second": round(ours.tokens_per_second, 1),
            "ratio": round(ours.tokens_per_second / floor.tokens_per_second, 3),
            "bare_ttft_p50_ms": round(floor.ttft_p50_ms),
            "engine_ttft_p50_ms": round(ours.ttft_p50_ms),
            "engine_inter_token_p99_ms": round(ours.inter_token_p99_ms),
        }
    bare.close()
    engine.close()


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt-tokens", type=int, default=110)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    for row in compare(options.gguf, options.rounds, options.prompt_tokens, options.new_tokens):
        print(row, flush=True)


if __name__ == "__main__":
    main()
