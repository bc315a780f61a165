"""Job: log-probabilities of every scored position of a reference model.

A window is scored from its middle on, as llama-perplexity does, so that every scored token has
at least half a window before it. float16 holds a log-probability to about one in a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.llama.jobs.session import Session, SessionConfig
from compiler.progress import Progress

_ROWS = 64
Floats = NDArray[np.float32]


def log_softmax(logits: Floats) -> Floats:
    """Return float32 log-probabilities of float32[rows, vocabulary]."""
    shifted: Floats = logits - logits.max(1, keepdims=True)
    total = np.exp(shifted).sum(1, keepdims=True, dtype=np.float64)
    shifted -= np.log(total).astype(np.float32)
    return shifted


def scored(arguments: dict[str, Any], progress: Progress) -> Iterator[tuple[Floats, list[int]]]:
    """Yield log-probabilities and the tokens that really followed, some rows at a time."""
    tokens, window = arguments["tokens"], arguments["window"]
    half = window // 2
    config = SessionConfig(
        context_tokens=window,
        batch_tokens=max(half, _ROWS),
        rows=_ROWS,
        threads=arguments["threads"],
        flash=arguments.get("flash", True),
        extra_buffers=arguments.get("extra_buffers", True),
    )
    windows = len(tokens) // window
    with Session(arguments["gguf"], config) as session:
        first = session.first_token()
        for number in range(windows):
            piece = list(tokens[number * window : (number + 1) * window])
            inputs = [piece[0] if first is None else first, *piece[1:]]
            session.clear()
            session.prefill(inputs[:half], 0, wanted=False)
            for start in range(half, window - 1, _ROWS):
                progress("scoring held-out text", (number + start / window) / windows)
                end = min(start + _ROWS, window - 1)
                session.prefill(inputs[start:end], start, wanted=True)
                yield log_softmax(session.logits(end - start)), piece[start + 1 : end + 1]


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Write float16[positions, vocabulary] to arguments["out"]; return the perplexity's sum."""
    positions = 0
    surprise = 0.0
    size = 0
    with Path(arguments["out"]).open("wb") as file:
        for rows, targets in scored(arguments, progress):
            surprise -= float(rows[np.arange(len(targets)), targets].sum(dtype=np.float64))
            positions += len(targets)
            size = rows.shape[1]
            file.write(rows.astype("<f2").tobytes())
    return {"positions": positions, "vocabulary": size, "surprise": surprise}
