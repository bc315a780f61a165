"""From what was seen of a form's answers to its quality: one way for searches and for the rest.

What is no number is never passed over. A decoder with figures that are none is ruined, and so
is an embedder that holds all texts to be alike where its reference tells them apart.
"""

from __future__ import annotations

import math
from typing import Final

from compiler.errors import RuinedError
from compiler.llama.quality import GgufQuality
from compiler.onnx_measure.result import OnnxQuality
from compiler.tune.candidate import MOST, Quality

CLASSIFY: Final = "classify"


def decoder_quality(seen: GgufQuality) -> Quality:
    """Return the quality of a GGUF file.

    Raises:
        RuinedError: a figure is no number.
    """
    figures = (seen.kl_mean, seen.kl_p99, seen.perplexity, seen.perplexity_ratio, seen.top1)
    if any(math.isnan(one) or one == -math.inf for one in figures):
        raise RuinedError("the candidate gives values that are no finite numbers")
    return Quality(
        samples=seen.tokens,
        # The reference's distributions are kept in 16 bits; their rounding may take a
        # divergence of nothing below it.
        kl_mean=max(0.0, min(seen.kl_mean, MOST)),
        kl_p99=max(0.0, min(seen.kl_p99, MOST)),
        perplexity=min(seen.perplexity, MOST),
        perplexity_ratio=min(seen.perplexity_ratio, MOST),
        top1=seen.top1,
    )


def encoder_quality(seen: OnnxQuality, task: str) -> Quality:
    """Return the quality of an encoder's graph, by what its task is judged by."""
    lost = None
    if seen.accuracy is not None and seen.reference_accuracy is not None:
        lost = seen.reference_accuracy - seen.accuracy
    if task == CLASSIFY:
        return Quality(
            samples=seen.rows,
            kl_mean=min(seen.kl_mean, MOST),
            top1=seen.top1,
            accuracy=seen.accuracy,
            accuracy_drop=lost,
        )
    rank = seen.similarity_spearman
    return Quality(
        samples=seen.rows,
        accuracy=seen.accuracy,
        accuracy_drop=lost,
        spearman=None if math.isnan(rank) else min(1.0, max(-1.0, rank)),
    )
