"""Noise, added once to the sum of clipped gradients; the mode is recorded in the report.

gaussian: normal values are added in float64 to the float32 sum, and the result is rounded
    once to float32. What that does not guarantee is said in `randomness.gaussian`.
discrete: the sum is rounded to a grid, and exact integers of the discrete Gaussian
    distribution are added on that grid (see `discrete`).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trainer.privacy.randomness import SecretGenerator

MODES = ("gaussian", "discrete")


def add_noise_(
    sums: Mapping[str, Tensor],
    *,
    mode: str,
    noise_multiplier: float,
    sensitivity: float,
    generator: SecretGenerator,
) -> None:
    """Add noise to all of `sums`, in place; call it once for an update, on one rank.

    Args:
        sums: float32 tensors of any device, contiguous; together one vector.
        mode: one of MODES.
        noise_multiplier: standard deviation over sensitivity; 0 adds nothing.
        sensitivity: the most that one unit changes the whole vector, as an L2 norm.
        generator: the secret coins.

    Raises:
        PrivacyError: an unknown mode, a tensor that is not float32, or values that
            are no numbers.
    """
    raise NotImplementedError


def mode_facts(mode: str) -> dict[str, str]:
    """Return what the report says of a mode: JSON keys source, arithmetic, guarantee."""
    raise NotImplementedError
