"""Job: load a model once and time prefill and decoding at several numbers of clients.

Each decode step gives every client one token; tokens are made from a seed, since speed
does not depend on which they are. Sampling is not timed. One short round warms up. No
sequence gets longer than the model's context: clients begin anew there.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from compiler.llama.jobs.memory import peak_bytes, resident_bytes
from compiler.llama.jobs.session import Session, SessionConfig
from compiler.progress import Progress

_PROMPT = 32
_MAX_STEPS = 512
_WARM_STEPS = 2


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return load seconds, prefill tok/s, decode tok/s by clients, peak memory in bytes."""
    batches, prefill = arguments["batches"], arguments["prefill"]
    clients = max(batches)
    before = resident_bytes()
    config = SessionConfig(
        context_tokens=max(clients * (_PROMPT + _MAX_STEPS), prefill),
        batch_tokens=max(arguments["batch_tokens"], clients, _PROMPT),
        sequences=clients,
        rows=clients,
        threads=arguments["threads"],
        flash=arguments["flash"],
        extra_buffers=arguments["extra_buffers"],
    )
    start = time.perf_counter()
    with Session(arguments["gguf"], config) as session:
        load = time.perf_counter() - start
        tokens = np.random.default_rng(0).integers(0, session.size, prefill).tolist()
        progress("timing prefill", 0.0)
        _prefill(session, tokens[:_PROMPT], config.batch_tokens)
        prefill_speed = prefill / _prefill(session, tokens, config.batch_tokens)
        decode = {}
        for number, count in enumerate(batches):
            progress(f"timing decoding at {count} clients", (number + 1) / (len(batches) + 1))
            decode[str(count)] = _decode(session, count, tokens, arguments["seconds"])
    return {
        "load_seconds": load,
        "prefill": prefill_speed,
        "decode": decode,
        "peak_bytes": peak_bytes() - before,
    }


def _prefill(session: Session, tokens: list[int], step: int) -> float:
    session.clear()
    start = time.perf_counter()
    for first in range(0, len(tokens), step):
        session.prefill(tokens[first : first + step], first, wanted=False)
    return time.perf_counter() - start


def _decode(session: Session, clients: int, tokens: list[int], seconds: float) -> float:
    """Return tokens/s of all clients together."""
    steps, taken = 0, 0.0
    while True:
        done, passed = _decode_once(session, clients, tokens, seconds - taken, _MAX_STEPS - steps)
        steps, taken = steps + done, taken + passed
        if taken >= seconds or steps + _WARM_STEPS >= _MAX_STEPS:
            return clients * steps / taken


def _decode_once(
    session: Session, clients: int, tokens: list[int], seconds: float, most: int
) -> tuple[int, float]:
    """Return how many steps were timed from a new prompt on, and how long they took."""
    session.clear()
    slots = list(range(clients))
    prompt = tokens[: min(_PROMPT, max(1, session.trained_context // 2))]
    count = len(prompt)
    for slot in slots:
        session.decode(prompt, range(count), [slot] * count, [False] * count)
    most = max(_WARM_STEPS + 1, min(most, session.trained_context - count))
    start = time.perf_counter()
    for step in range(most):
        if step == _WARM_STEPS:
            start = time.perf_counter()
        chosen = [tokens[(slot * 7 + step) % len(tokens)] for slot in slots]
        session.decode(chosen, [count + step] * clients, slots, [True] * clients)
        # Reading them waits for the step to end.
        session.logits(1)
        passed = time.perf_counter() - start
        if step >= _WARM_STEPS and passed >= seconds:
            break
    return step + 1 - _WARM_STEPS, passed
