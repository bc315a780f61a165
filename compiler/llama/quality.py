"""How much a GGUF file's predictions differ from a reference's, on held-out tokens.

Measured as llama-perplexity does it: windows of 512 tokens, the second half of each is
scored. Confidence intervals are 95%, normal, over positions; neighbouring positions are not
independent, so take them as a lower bound of the uncertainty.

The reference is stored whole, two bytes for each token of the vocabulary and each scored
position (Gemma 3: 400 MB for three windows), because a KL divergence over some tokens only
would flatter every candidate. A reference of other tokens or another vocabulary is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import QuantizationError
from compiler.files import read_json
from compiler.llama.files import beside
from compiler.llama.gguf_file import check_file
from compiler.llama.job import DEFAULT_SECONDS, run_job
from compiler.progress import Progress, silent
from security.files import create_exclusive

WINDOW: Final = 512
WINDOWS: Final = 3
_FORMAT = "casemate-reference-1"
_Z = 1.959964
_MOST_POWER = 700.0
_MAX_REFERENCE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class GgufQuality:
    """A file's predictions beside the reference's; `_low` and `_high` bound 95%.

    Attributes:
        kl_mean: mean KL divergence, nats.
        kl_p99: its 99th percentile over positions.
        perplexity: exp of the mean surprise of the tokens that really followed.
        perplexity_ratio: over the reference's; bounds from the paired differences.
        top1: share of positions whose likeliest token is the reference's, 0..1.
        tokens: positions scored.
    """

    kl_mean: float
    kl_low: float
    kl_high: float
    kl_p99: float
    perplexity: float
    perplexity_ratio: float
    perplexity_ratio_low: float
    perplexity_ratio_high: float
    top1: float
    top1_low: float
    top1_high: float
    tokens: int

    def to_dict(self) -> dict[str, float]:
        """Return the figures as JSON values."""
        return asdict(self)


def make_reference(
    gguf: Path,
    tokens: Sequence[int],
    out: Path,
    *,
    window: int = WINDOW,
    windows: int = WINDOWS,
    threads: int = 1,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = silent,
) -> Path:
    """Score held-out tokens with the reference model; write `out` and `out`.f16 beside it.

    Args:
        tokens: of held-out text, from `imatrix.tokenize`; the first windows are used.
        out: the JSON file to make; it must not exist.

    Raises:
        QuantizationError: too few tokens; says how many.
        SourceError, UnsafeModelError, ChildError, OSError: see the package.
    """
    used = list(tokens[: window * windows])
    if window < 4 or windows < 1 or len(used) < window * windows:
        raise QuantizationError(
            f"the held-out text is too short: {len(tokens)} tokens; {windows} windows of "
            f"{window} need {window * windows}"
        )
    check_file(gguf)
    with beside(out) as head, beside(_data_path(out)) as data:
        # What a model answers to a text, and its tokens, are as private as the text.
        create_exclusive(data, b"")
        arguments = _arguments(gguf, used, window, threads) | {"out": str(data)}
        answer = run_job("logits", arguments, seconds=seconds, threads=threads, progress=progress)
        value = answer | {"format": _FORMAT, "tokens": used, "window": window}
        create_exclusive(head, json.dumps(value, sort_keys=True).encode("ascii"))
    return out


def _data_path(out: Path) -> Path:
    return out.with_name(out.name + ".f16")


def _arguments(gguf: Path, tokens: list[int], window: int, threads: int) -> dict[str, Any]:
    return {"gguf": str(gguf.resolve()), "tokens": tokens, "window": window, "threads": threads}


def reference_perplexity(reference: Path) -> float:
    """Return the perplexity of the reference model itself."""
    value = _read(reference)
    return math.exp(value["surprise"] / value["positions"])


def _read(reference: Path) -> dict[str, Any]:
    value = read_json(reference, _MAX_REFERENCE_BYTES)
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise QuantizationError(f"{reference}: is no stored reference of the format {_FORMAT}")
    data = _data_path(reference)
    expected = 2 * value["positions"] * value["vocabulary"]
    if not data.is_file() or data.stat().st_size != expected:
        raise QuantizationError(f"{data}: is missing or cut short; make the reference anew")
    return value


def compare(
    gguf: Path,
    reference: Path,
    *,
    threads: int = 1,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = silent,
) -> GgufQuality:
    """Score the reference's tokens with another file and compare.

    Raises:
        QuantizationError: the reference is damaged, or its vocabulary is another.
        SourceError, UnsafeModelError, ChildError, OSError: see the package.
    """
    value = _read(reference)
    check_file(gguf)
    arguments = _arguments(gguf, value["tokens"], value["window"], threads)
    arguments |= {name: value[name] for name in ("positions", "vocabulary")}
    arguments["reference"] = str(_data_path(reference).resolve())
    answer = run_job("comparing", arguments, seconds=seconds, threads=threads, progress=progress)
    return summarize(
        np.array(answer["kl"]),
        np.array(answer["surprise"]),
        np.array(answer["reference_surprise"]),
        np.array(answer["same"], np.float64),
    )


def summarize(
    kl: NDArray[np.float64],
    surprise: NDArray[np.float64],
    reference_surprise: NDArray[np.float64],
    same: NDArray[np.float64],
) -> GgufQuality:
    """Turn figures of positions (nats; same is 0 or 1) into means with intervals."""
    kl_mean, kl_half = _mean(kl)
    top1, top1_half = _mean(same)
    ratio, ratio_half = _mean(surprise - reference_surprise)
    return GgufQuality(
        kl_mean=kl_mean,
        kl_low=max(0.0, kl_mean - kl_half),
        kl_high=kl_mean + kl_half,
        kl_p99=float(np.percentile(kl, 99)),
        perplexity=_exp(float(surprise.mean())),
        perplexity_ratio=_exp(ratio),
        perplexity_ratio_low=_exp(ratio - ratio_half),
        perplexity_ratio_high=_exp(ratio + ratio_half),
        top1=top1,
        top1_low=max(0.0, top1 - top1_half),
        top1_high=min(1.0, top1 + top1_half),
        tokens=len(kl),
    )


def _exp(value: float) -> float:
    """Return e to a power; infinity where that is beyond all numbers."""
    return math.inf if value > _MOST_POWER else math.exp(value)


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and half of its confidence interval."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()), _Z * spread / math.sqrt(len(values))
