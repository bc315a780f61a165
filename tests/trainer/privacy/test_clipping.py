from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trainer.privacy.clipping import (
    Clipping,
    automatic_factors,
    flat_factors,
    per_layer_factors,
)

KINDS = ("flat", "per-layer", "automatic")
clips = st.floats(2.0**-20, 2.0**20, width=32)
values = st.floats(-(2.0**60), 2.0**60, width=32)


@given(st.sampled_from(KINDS), clips, arrays(np.float32, (3, 2, 7), elements=values))
def test_a_clipped_norm_is_never_above_the_clip(kind, clip, gradients):
    """Three layers, two examples, seven weights each; norms and products in float32."""
    layers = torch.from_numpy(gradients)
    norms = torch.linalg.vector_norm(layers, dim=2)
    factors = Clipping(kind, clip).factors(norms)
    clipped = (layers * factors[:, :, None]).double()
    whole = torch.linalg.vector_norm(clipped, dim=(0, 2))
    assert bool((whole <= clip).all())


@given(clips, st.floats(0, 1, width=32))
def test_a_small_gradient_is_left_as_it_is(clip, share):
    norm = torch.tensor([clip * share * 0.999])
    assert float(flat_factors(norm, clip)) == 1.0


@given(clips, st.floats(1.01, 1e6))
def test_a_large_gradient_comes_down_to_the_clip(clip, times):
    norm = torch.tensor([clip * times])
    assert float(flat_factors(norm, clip) * norm) == pytest.approx(clip, rel=1e-4)


def test_layers_share_the_clip_evenly():
    norms = torch.tensor([[10.0, 0.1], [10.0, 10.0], [10.0, 0.0], [0.1, 0.0]])
    clipped = norms * per_layer_factors(norms, 2.0)
    expected = torch.tensor([[1.0, 0.1], [1.0, 1.0], [1.0, 0.0], [0.1, 0.0]])
    assert torch.allclose(clipped, expected, rtol=1e-4)


def test_automatic_clipping_brings_all_but_small_gradients_to_one_norm():
    norms = torch.tensor([0.0, 0.01, 1.0, 1e4])
    clipped = norms * automatic_factors(norms, 1.0)
    expected = torch.tensor([0.0, 0.5, 1 / 1.01, 1.0])
    assert torch.allclose(clipped, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_gets_no_factor_in_any_layer(kind, bad):
    norms = torch.tensor([[1.0, bad], [1.0, 1.0]])
    factors = Clipping(kind, 1.0).factors(norms)
    assert factors[:, 1].tolist() == [0.0, 0.0]
    assert bool((factors[:, 0] > 0).all())


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_a_clip_that_bounds_nothing(clip):
    with pytest.raises(ValueError, match="must be above 0"):
        Clipping("flat", clip)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="no clipping 'none'"):
        Clipping("none", 1.0)  # type: ignore[arg-type]
