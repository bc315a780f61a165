"""Rotary positions (Su et al. 2021): what config.json says, in llama.cpp's words.

It refuses the ways of stretching the context whose computation depends on the text's
length or that could not be compared here: dynamic, yarn, longrope.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.gguf_export.configuration import Configuration, positive

_EXPORTED: Final = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn queries and keys.

    Attributes:
        base: theta, the base of the frequencies.
        linear_factor: what positions are divided by, or None.
        divisors: float32[head width / 2], what each frequency is divided by, or None.
    """

    base: float
    linear_factor: float | None = None
    divisors: NDArray[np.float32] | None = None


def read_rope(config: Configuration, head_width: int) -> Rope:
    """Return the rotary positions of a model.

    Raises:
        SourceError: of a kind that is not exported, or without the numbers it needs.
    """
    # Newer files hold everything in rope_parameters, older ones rope_theta beside it.
    stated = config.raw("rope_parameters") or config.raw("rope_scaling") or {}
    if not isinstance(stated, dict):
        raise config.refuse("'rope_scaling' is no object")
    base = stated.get("rope_theta", config.raw("rope_theta"))
    base = positive(config.path, "rope_theta", base)
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind not in _EXPORTED:
        raise config.refuse(
            f"rotary positions of the type {kind!r} are not exported, only "
            f"{', '.join(_EXPORTED)}; use llama.cpp's converter (--converter)"
        )
    if config.raw("partial_rotary_factor") not in (None, 1.0):
        raise config.refuse("rotary positions over a part of a head are not exported")
    if kind == "linear":
        return Rope(base, linear_factor=positive(config.path, "factor", stated.get("factor")))
    if kind == "llama3":
        return Rope(base, divisors=_llama3(config, stated, base, head_width))
    return Rope(base)


def _llama3(
    config: Configuration, stated: Mapping[str, Any], base: float, head_width: int
) -> NDArray[np.float32]:
    """Return the divisors of Llama 3.1's long contexts.

    Wavelengths longer than the original context over `low_freq_factor` are stretched by
    `factor`, those shorter than it over `high_freq_factor` are kept, and those between
    are mixed linearly (Llama 3.1's reference implementation).
    """

    def number(name: str) -> float:
        return positive(config.path, name, stated.get(name))

    factor, original = number("factor"), number("original_max_position_embeddings")
    low, high = number("low_freq_factor"), number("high_freq_factor")
    if low >= high:
        raise config.refuse("low_freq_factor is not below high_freq_factor")
    exponents = np.arange(0, head_width, 2, dtype=np.float64) / head_width
    wavelengths = 2 * math.pi * base**exponents
    share = np.clip((original / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)
