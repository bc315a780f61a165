"""How tokens are drawn; every limit is checked when the settings are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from security.errors import UsageError
from security.strictjson import MAX_SAFE_INTEGER

MAX_COUNT: Final = 100_000_000
MAX_BATCH: Final = 4096
MAX_TEMPERATURE: Final = 100.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How texts are sampled.

    Attributes:
        temperature: divides the logits, 0 to 100; 0 takes the likeliest token each time.
        top_k: tokens to choose from; 0 is all.
        top_p: share of the probability to choose from, in (0, 1]; 1 is all (nucleus
            sampling, Holtzman et al. 2020). It is taken after `top_k`.
        max_tokens: new tokens of a text at most; 0 is as many as the records had that the
            model was trained on.
        seed: of the draws; None takes one from the operating system and forgets it.
        batch: texts of one forward pass. It decides which text gets which draw.

    Raises:
        UsageError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 0
    seed: int | None = None
    batch: int = 32

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= MAX_TEMPERATURE):
            raise UsageError(
                f"the temperature is {self.temperature:g}; it goes from 0 to {MAX_TEMPERATURE:g}"
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is {self.top_p:g}; it is a share above 0, at most 1")
        if not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"the batch is {self.batch}; it goes from 1 to {MAX_BATCH:,} texts")
        for name, value in (("top-k", self.top_k), ("max-tokens", self.max_tokens)):
            if not 0 <= value <= MAX_SAFE_INTEGER:
                raise UsageError(f"{name} is {value}; it is 0 or more")
        if self.seed is not None and not 0 <= self.seed <= MAX_SAFE_INTEGER:
            raise UsageError(f"the seed is {self.seed}; it goes from 0 to 2**53 - 1")


def check_count(count: int) -> int:
    """Return a number of texts.

    Raises:
        UsageError: it is 0, negative, or beyond any use.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"{count:,} texts were asked for; it goes from 1 to {MAX_COUNT:,}")
    return count
