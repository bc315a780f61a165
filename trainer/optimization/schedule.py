"""The learning rate of every step, as a pure function of the step.

Invariants: the factor lies in [0, 1]; it rises linearly over the warm-up, is 1 at
the end of it, and never rises again. Falling schedules reach `final_fraction` at
`total`, the point after the last update, so that no update is made with a rate of
nothing. Nothing is stored: a resumed run only needs its step.
"""

from __future__ import annotations

import math

from trainer.recipe.schema import OptimizerOptions


def learning_rate_factor(step: int, options: OptimizerOptions, total: int) -> float:
    """Return the share of the peak learning rate for one update.

    The shapes: `linear` and `cosine` (Loshchilov and Hutter 2017) fall from the end of
    the warm-up to `total`; `warmup-stable-decay` (Hu et al. 2024) holds the peak and falls
    linearly over the last `decay_fraction` of all steps, or over what the warm-up leaves;
    `inverse-square-root` (Vaswani et al. 2017) falls as sqrt(warm-up / step), but not below
    `final_fraction`; `constant` stays.

    Args:
        step: updates already made, from 0; beyond `total` the factor stays at its last value.
        options: schedule, warmup_steps, decay_fraction and final_fraction.
        total: updates of the whole run, at least 1.

    Raises:
        ValueError: `step` is negative or `total` below 1.
    """
    if step < 0 or total < 1:
        raise ValueError(f"no learning rate for step {step} of {total}")
    step = min(step, total)
    warmup = min(options.warmup_steps, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    final = options.final_fraction
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "inverse-square-root":
        # Counted from 1, so that a run without warm-up starts at the peak too.
        return max(final, math.sqrt((warmup + 1) / (step + 1)))
    start = warmup
    if options.schedule == "warmup-stable-decay":
        start = max(warmup, total - round(options.decay_fraction * total))
    if step <= start:
        return 1.0
    progress = (step - start) / (total - start)
    if options.schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
    return final + (1 - final) * (1 - progress)
