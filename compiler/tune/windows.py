"""On how much of a text a decoder is judged.

A window is never longer than the model's context: beyond it answers are ruined in every form,
and the reference's own say nothing. There are as many windows as the text has, up to a bound:
a candidate is judged some thirty times in a search, so a small model is judged on more text
than a large one, in about the same time. The figures are for two cores and 20 minutes: Gemma 3
270M in 253 MB is judged on 3,072 tokens.
"""

from __future__ import annotations

from typing import Final

from compiler.llama.quality import WINDOW

# What has at least so many tokens is enough to judge on; less is refused.
LEAST_TOKENS: Final = 1536
_USUAL_TOKENS: Final = 3072
# Importance is a mean over tokens, which more of them hardly change.
USUAL_CALIBRATION_TOKENS: Final = 16384
_USUAL_BYTES: Final = 256 << 20
_LEAST_SHARE, _MOST_SHARE = 0.5, 8.0
# Two bytes for each token of the vocabulary and each scored position, which is every other one.
_MOST_REFERENCE_BYTES: Final = 1 << 30


def window_of(context_tokens: int) -> int:
    """Return the tokens of a window for a model of that context."""
    return min(WINDOW, context_tokens)


def windows_of(tokens: int, window: int, size_bytes: int, vocabulary_size: int) -> int:
    """Return how many windows a search judges on.

    Args:
        tokens: that the text has.
        window: tokens of one.
        size_bytes: of the model's file.
        vocabulary_size: tokens that the model knows.

    Returns:
        At least LEAST_TOKENS' worth, also where the text has fewer: it is refused then.
    """
    most = min(_USUAL_TOKENS * _share(size_bytes), _MOST_REFERENCE_BYTES / max(1, vocabulary_size))
    least = -(-LEAST_TOKENS // window)
    return max(least, min(tokens, int(most)) // window)


def calibration_tokens(size_bytes: int) -> int:
    """Return how many tokens importance is gathered on for a model's file of that size."""
    return int(USUAL_CALIBRATION_TOKENS * min(1.0, _share(size_bytes)))


def _share(size_bytes: int) -> float:
    return min(_MOST_SHARE, max(_LEAST_SHARE, _USUAL_BYTES / max(1, size_bytes)))
