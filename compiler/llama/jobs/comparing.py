"""Job: how far a model's predictions are from a stored reference's, position by position.

KL divergence is KL(reference || model) in nats over the whole vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.errors import QuantizationError
from compiler.llama.jobs.logits import scored
from compiler.progress import Progress


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return lists with one number a position: kl, surprise, reference_surprise, same."""
    shape = (arguments["positions"], arguments["vocabulary"])
    reference = np.memmap(arguments["reference"], "<f2", "r", shape=shape)
    kl: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    same: list[bool] = []
    for rows, targets in scored(arguments, progress):
        start, end = len(kl), len(kl) + len(targets)
        if rows.shape[1] != shape[1]:
            raise QuantizationError(
                f"the reference has {shape[1]} tokens in its vocabulary, the model {rows.shape[1]}"
            )
        wanted = reference[start:end].astype(np.float32)
        difference = wanted - rows
        np.multiply(difference, np.exp(wanted), out=difference)
        kl += difference.sum(1, dtype=np.float64).tolist()
        index = np.arange(len(targets))
        ours += (-rows[index, targets]).tolist()
        theirs += (-wanted[index, targets]).tolist()
        same += (rows.argmax(1) == wanted.argmax(1)).tolist()
    return {"kl": kl, "surprise": ours, "reference_surprise": theirs, "same": same}
