"""Small made-up texts whose words fall into groups that keep company."""

from __future__ import annotations

import numpy as np

GROUPS, GROUP_WORDS = 4, 5
VOCABULARY = GROUPS * GROUP_WORDS


def grouped_words(sentences: int, seed: int = 0) -> np.ndarray:
    """Return i32 ids; a sentence holds eight words of one group, and -1 ends it."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(0, GROUPS, (sentences, 1)) * GROUP_WORDS
    words = rows + draw.integers(0, GROUP_WORDS, (sentences, 8))
    return np.concatenate([words, np.full((sentences, 1), -1)], axis=1).astype(np.int32).ravel()


def as_text(words: np.ndarray) -> str:
    """Return the same as lines of text."""
    lines = "".join("\n" if word < 0 else f"word{'abcdefghijklmnopqrst'[word]} " for word in words)
    return lines.replace(" \n", "\n")
