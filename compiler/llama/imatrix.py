"""Importance of weights: how large the inputs of each matrix are on calibration text.

A weight's rounding error matters as much as the input that it is multiplied with. The
mean square of each input column weights the errors of llama.cpp's quantizers (there called
imatrix), and the second moments of a matrix's inputs let rounding.py do better.

Text that is too short is refused with figures: a matrix of second moments needs several
times as many tokens as it has columns, or it describes the text and not the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from compiler.errors import QuantizationError
from compiler.llama.files import beside
from compiler.llama.gguf_file import check_file
from compiler.llama.job import DEFAULT_SECONDS, run_job
from compiler.progress import Progress, silent

MIN_TOKENS: Final = 2048
DEFAULT_WINDOW: Final = 512
MAX_MOMENT_COLUMNS: Final = 8192
"""Wider inputs get no second moments: the matrix would take more than 256 MiB."""
# Tokens that the job runs at once.
_ROWS: Final = 128


def tokenize(gguf: Path, text: str) -> list[int]:
    """Return the tokens of a text, as the file's own tokenizer makes them in a child.

    Raises:
        SourceError, UnsafeModelError: the file is refused.
        ChildError: llama.cpp died of it.
    """
    check_file(gguf)
    answer = run_job("tokenizing", {"gguf": str(gguf.resolve()), "text": text})
    return [int(token) for token in answer["tokens"]]


def calibration_window(window: int) -> int:
    """Return the largest window for calibration, in tokens, that is not above `window`."""
    return window if window < _ROWS else window // _ROWS * _ROWS


def gather_imatrix(
    gguf: Path,
    tokens: Sequence[int],
    out: Path,
    *,
    moments: Sequence[str] = ("output\\.weight",),
    window: int = DEFAULT_WINDOW,
    min_tokens: int = MIN_TOKENS,
    threads: int = 1,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = silent,
) -> Path:
    """Run calibration tokens through a model and write an importance file.

    Args:
        gguf: the model, in the best format there is of it.
        tokens: of the calibration text; whole windows are used.
        out: the file to make; it must not exist.
        moments: regular expressions of the matrices whose second moments are kept too.
        window: tokens of a context: a multiple of 128, or fewer.
        min_tokens: fewer are refused.
        seconds: time limit.

    Raises:
        QuantizationError: too few tokens; says how many there are and are needed.
        SourceError, UnsafeModelError, ChildError, OSError: see the package.
    """
    used = len(tokens) // window * window
    if window <= 0 or window != calibration_window(window):
        raise QuantizationError(f"a calibration window of {window} is no multiple of 128 tokens")
    if used < min_tokens or not used:
        raise QuantizationError(
            f"the calibration text is too short: {len(tokens)} tokens make {len(tokens) // window} "
            f"windows of {window}; at least {min_tokens} tokens in whole windows are needed"
        )
    check_file(gguf)
    with beside(out) as part:
        arguments = {
            "gguf": str(gguf.resolve()),
            "tokens": list(tokens[:used]),
            "window": window,
            "moments": list(moments),
            "max_columns": min(MAX_MOMENT_COLUMNS, used),
            "threads": threads,
            "out": str(part),
        }
        run_job("importance", arguments, seconds=seconds, threads=threads, progress=progress)
    return out
