"""Skip-gram with negative sampling in numpy and plain Python, line by line: the oracle.

It draws the same random numbers as the native code, so that results can be compared.
"""

from __future__ import annotations

import numpy as np

MASK = (1 << 64) - 1


class SplitMix64:
    def __init__(self, state: int) -> None:
        self.state = state & MASK

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pairs_of(words, keep, alias, *, window, negatives, seed):
    """Return (kept words, list of (context, centre, negatives)), in training order."""
    random = SplitMix64(seed)
    kept_total, pairs = 0, []

    def sentence(kept):
        for i, centre in enumerate(kept):
            reach = 1 + ((random.next() >> 32) * window >> 32)
            for j in range(max(0, i - reach), min(len(kept), i + reach + 1)):
                if j == i:
                    continue
                drawn = []
                for _ in range(negatives):
                    value = random.next()
                    slot = (value >> 32) * len(alias) >> 32
                    own = (value & 0xFFFFFFFF) < int(alias[slot, 0])
                    word = slot if own else int(alias[slot, 1])
                    if word != centre:
                        drawn.append(word)
                pairs.append((kept[j], centre, drawn))

    kept: list[int] = []
    for word in map(int, words):
        if word == -1:
            sentence(kept)
            kept_total += len(kept)
            kept = []
        elif word != -2:
            threshold = int(keep[word])
            if threshold == 0xFFFFFFFF or random.next() >> 32 < threshold:
                kept.append(word)
    sentence(kept)
    return kept_total + len(kept), pairs


def pair_loss(inputs, outputs, pair):
    context, centre, negatives = pair
    loss = -np.log(sigmoid(inputs[context] @ outputs[centre]))
    for word in negatives:
        loss -= np.log(1 - sigmoid(inputs[context] @ outputs[word]))
    return loss


def train(inputs, outputs, words, keep, alias, *, window, negatives, seed, rate):
    """Train float64 copies; return (inputs, outputs, words kept, pairs, sampled loss)."""
    inputs, outputs = inputs.astype(np.float64), outputs.astype(np.float64)
    kept, pairs = pairs_of(words, keep, alias, window=window, negatives=negatives, seed=seed)
    sampled = 0.0
    for number, pair in enumerate(pairs):
        if number % 16 == 0:
            sampled += pair_loss(inputs, outputs, pair)
        context, centre, drawn = pair
        targets = [centre, *drawn]
        steps = []
        for group in range(0, len(targets), 8):
            # Rows move after each eight; a row that is drawn twice within them adds up.
            part = targets[group : group + 8]
            steps += [
                rate * ((group + k == 0) - sigmoid(inputs[context] @ outputs[target]))
                for k, target in enumerate(part)
            ]
            if group == 0:
                change = np.zeros_like(inputs[context])
            for target, step in zip(part, steps[group:], strict=True):
                change += step * outputs[target]
                outputs[target] += step * inputs[context]
        inputs[context] += change
    return inputs, outputs, kept, len(pairs), sampled
