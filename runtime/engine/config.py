"""The generation engine's limits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one GenerationEngine; checked when made, fixed afterwards.

    Attributes:
        max_sequences: requests that run at a time.
        max_waiting: requests that may wait for room; more are refused with CAPACITY.
        prefill_turn_tokens: prompt tokens a turn takes at most. Each turn gives an answer
            token to everyone who is decoding, so this bounds how long a long prompt can
            hold up other people's answers, and how early the first of many prompts is done.
        score_step_rows: scored tokens a step takes at most; each needs a row of logits
            (vocabulary x 4 bytes).
        prefix_reuse: keep KV cache of ended requests for the same tenant's next one.
        prefix_min_tokens: shortest common prefix worth reusing.
    """

    max_sequences: int = 16
    max_waiting: int = 256
    prefill_turn_tokens: int = 256
    score_step_rows: int = 32
    prefix_reuse: bool = True
    prefix_min_tokens: int = 16

    def __post_init__(self) -> None:
        bounds = (
            ("max_sequences", 1, 256),
            ("max_waiting", 0, 65_536),
            ("prefill_turn_tokens", 1, 8_192),
            ("score_step_rows", 1, 1_024),
            ("prefix_min_tokens", 1, 65_536),
        )
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {low} to {high}")
