"""The losses as their definitions say, one number at a time in Python's floats."""

from __future__ import annotations

import math
from collections.abc import Sequence


def log_softmax(scores: Sequence[float]) -> list[float]:
    """Logarithms of the softmax of some scores."""
    highest = max(scores)
    partition = math.log(sum(math.exp(score - highest) for score in scores)) + highest
    return [score - partition for score in scores]


def cross_entropy(
    logits: Sequence[Sequence[float]], targets: Sequence[int], smoothing: float = 0.0
) -> tuple[float, float, int, int]:
    """Return smoothed sum, plain sum, targets, and targets with the highest score."""
    total = plain = 0.0
    count = correct = 0
    for scores, target in zip(logits, targets, strict=True):
        if target == -100:
            continue
        logs = log_softmax(scores)
        classes = len(scores)
        for index, log in enumerate(logs):
            probability = smoothing / classes + (1 - smoothing if index == target else 0.0)
            total -= probability * log
        plain -= logs[target]
        count += 1
        correct += max(range(classes), key=lambda index: scores[index]) == target
    return total, plain, count, correct
