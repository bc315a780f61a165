"""Noise, added once to the sum of clipped gradients; the mode is recorded in the report.

gaussian: normal values are added in float64 to the float32 sum, and the result is rounded
    once to float32.
discrete: the sum is rounded to a grid, and exact integers of the discrete Gaussian
    distribution are added on that grid (see `discrete`). The step of the grid is a power
    of two, so that nothing but that rounding is inexact, and the noise is made larger by
    what the rounding can add to the distance of two sums:

        deviation = noise_multiplier * (sensitivity + step * sqrt(values))

    since each of the two sums moves by half a step at most in every coordinate. With a
    step of 2^-20 of the sensitivity that is 0.03% more noise for 100,000 values.

Noise is drawn on the processor, whatever device the sums are on: about 50 ns a value, or
200 ns in discrete mode. That is nothing for adapters, and seconds for each update of a
whole network of 100 million weights.

In both modes the sum itself was added up in float32, by whoever made it: that one unit
moves it by `sensitivity` at most is true up to the rounding of those additions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.privacy.discrete import discrete_gaussian
from trainer.privacy.errors import PrivacyError
from trainer.privacy.randomness import SOURCE, SecretGenerator

MODES: Final = ("gaussian", "discrete")
# Steps of the grid in the largest power of two that is not above the sensitivity.
_GRID_BITS: Final = 20
# Values that are worked on at one time.
_PART: Final = 1 << 20

_FACTS: Final = {
    "gaussian": {
        "source": SOURCE,
        "arithmetic": (
            "normal values by Box-Muller in float64, added in float64 to a float32 sum, and "
            "rounded once to float32"
        ),
        "guarantee": (
            "the accounting is for real numbers. Rounding once after the addition hides the low "
            "bits that attacks on floating-point noise read (Mironov 2012), but proves nothing "
            "about finite numbers"
        ),
    },
    "discrete": {
        "source": SOURCE,
        "arithmetic": (
            "the float32 sum is rounded to a grid of at most 2^-20 of the sensitivity, and exact "
            "integers of the discrete Gaussian distribution (Canonne, Kamath and Steinke 2020) "
            "are added; the noise is enlarged by what rounding adds to the sensitivity"
        ),
        "guarantee": (
            "the noise is exact for finite numbers. That one unit moves the sum by the "
            "sensitivity at most is true up to the rounding of float32 additions before it"
        ),
    },
}


def mode_facts(mode: str) -> dict[str, str]:
    """Return what the report says of a mode: keys source, arithmetic and guarantee.

    Raises:
        PrivacyError: there is no such mode.
    """
    _check_mode(mode)
    return dict(_FACTS[mode])


def add_noise_(
    sums: Mapping[str, Tensor],
    *,
    mode: str,
    noise_multiplier: float,
    sensitivity: float,
    generator: SecretGenerator,
    coordinates: int = 0,
) -> None:
    """Add noise to all of `sums`, in place; call it once for each value of an update.

    Args:
        sums: float32 tensors, on any device; together one vector.
        mode: one of MODES.
        noise_multiplier: standard deviation over sensitivity; 0 adds nothing.
        sensitivity: the most that one unit changes the whole vector, as an L2 norm.
        generator: the secret coins.
        coordinates: values of the whole vector, where `sums` are a part of it and others
            noise the rest; 0 if they are all of it.

    Raises:
        PrivacyError: an unknown mode, values that are no numbers, or a sum that is not
            float32 or not finite; nothing was changed then.
    """
    # 1. Everything is checked before anything is changed.
    _check_mode(mode)
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        raise PrivacyError(f"a noise multiplier of {noise_multiplier!r} is no number from 0 on")
    if not (math.isfinite(sensitivity) and sensitivity > 0):
        raise PrivacyError(f"a sensitivity of {sensitivity!r} is no number above 0")
    for name, tensor in sums.items():
        if tensor.dtype != torch.float32:
            raise PrivacyError(f"the sum of {name} is {tensor.dtype}; noise is added to float32")
        if not bool(torch.isfinite(tensor).all()):
            raise PrivacyError(
                f"the sum of clipped gradients of {name} is no number: clipping was left out, "
                "or an example that is no number was not left out"
            )
    if noise_multiplier == 0:
        return
    # 2. One scale for the whole vector.
    values = coordinates or sum(tensor.numel() for tensor in sums.values())
    step = math.ldexp(1.0, math.frexp(sensitivity)[1] - 1 - _GRID_BITS)
    rounding = step * math.sqrt(values) if mode == "discrete" else 0.0
    deviation = noise_multiplier * (sensitivity + rounding)
    # 3. Fresh noise for every value.
    for tensor in sums.values():
        flat = tensor.detach().to("cpu").reshape(-1)
        array = flat.numpy()
        for begin in range(0, array.size, _PART):
            part = array[begin : begin + _PART]
            if mode == "discrete":
                part[:] = _discrete(part, deviation, step, generator)
            else:
                part[:] = part + deviation * generator.normal(part.size)
        tensor.detach().copy_(flat.reshape(tensor.shape))


def _discrete(
    values: npt.NDArray[np.float32], deviation: float, step: float, generator: SecretGenerator
) -> npt.NDArray[np.float64]:
    """Return values rounded to multiples of `step`, with noise; exact in float64 after that."""
    grid = np.rint(values.astype(np.float64) / step)
    grid += discrete_gaussian(generator, values.size, deviation / step)
    return grid * step


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise PrivacyError(f"the noise {mode!r} is none of {', '.join(MODES)}")
