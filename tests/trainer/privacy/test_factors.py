from __future__ import annotations

import pytest
import torch

from trainer.privacy.factors import Outer, Rows, lookup, outer, together

B = 5


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def matrix(length, wide, high, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(B, length, wide, generator=generator)
    backprops = torch.randn(B, length, high, generator=generator)
    return inputs, backprops, torch.einsum("bto,bti->boi", backprops, inputs)


def table(entries=7, length=6, width=3, padding=None):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(entries, (B, length), generator=generator)
    backprops = torch.randn(B, length, width, generator=generator)
    whole = torch.zeros(B, entries, width)
    for example in range(B):
        for place in range(length):
            if int(ids[example, place]) != padding:
                whole[example, ids[example, place]] += backprops[example, place]
    return lookup(ids, backprops, entries, padding), whole


def cases():
    return list(_cases())


def _cases():
    for length, wide, high in ((1, 4, 3), (2, 20, 30), (50, 4, 3), (0, 4, 3), (6, 8, 8)):
        inputs, backprops, whole = matrix(length, wide, high)
        size = f"{length}x{wide}x{high}"
        yield pytest.param(Outer(inputs, backprops), whole, id=f"outer-{size}")
        yield pytest.param(outer(inputs, backprops), whole, id=f"chosen-{size}")
        yield pytest.param(Rows(whole), whole, id=f"rows-{size}")
    yield pytest.param(*table(), id="table")
    yield pytest.param(*table(padding=2), id="table-with-padding")


@pytest.mark.parametrize(("factor", "whole"), cases())
def test_every_form_says_the_same(factor, whole):
    assert close(factor.rows(), whole)
    assert close(factor.squared_norms(), whole.flatten(1).square().sum(1))
    factors = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.25])
    total = torch.ones(whole.shape[1:])
    factor.add_to(total, factors)
    assert close(total, 1 + torch.einsum("b,bij->ij", factors, whole))


@pytest.mark.parametrize(("factor", "whole"), cases())
def test_some_examples(factor, whole):
    kept = torch.tensor([1, 4])
    chosen = factor.select(kept)
    assert close(chosen.rows(), whole[kept])
    assert close(chosen.squared_norms(), whole[kept].flatten(1).square().sum(1))
    total = torch.zeros(whole.shape[1:])
    chosen.add_to(total, torch.tensor([2.0, 3.0]))
    assert close(total, 2 * whole[1] + 3 * whole[4])


def test_the_smaller_form_is_held():
    assert isinstance(outer(torch.randn(B, 2, 20), torch.randn(B, 2, 30)), Outer)
    assert isinstance(outer(torch.randn(B, 50, 4), torch.randn(B, 50, 3)), Rows)


def test_uses_of_one_weight_add_up():
    inputs, backprops, whole = matrix(2, 20, 30)
    factor, looked_up = table(entries=30, width=20)
    both = together([Outer(inputs, backprops), factor])
    assert close(both.rows(), whole + looked_up)
    assert together([factor]) is factor


def test_terms_that_cancel_do_not_make_a_norm_too_small():
    """Two positions give the opposite; what float32 loses must not be taken for nothing."""
    inputs, backprops, _ = matrix(1, 300, 400)
    small = 1e-4 * torch.randn_like(backprops)
    twice = Outer(torch.cat([inputs, inputs], 1), torch.cat([backprops, small - backprops], 1))
    exact = torch.bmm((twice._backprops.double()).mT, twice._inputs.double()).flatten(1).norm(dim=1)
    found = twice.squared_norms().double().sqrt()
    assert bool((found >= exact * (1 - 1e-5)).all())


def test_half_precision_is_summed_in_float32():
    inputs, backprops, whole = matrix(2, 20, 30)
    factor = Outer(inputs.bfloat16(), backprops.bfloat16())
    assert factor.squared_norms().dtype == torch.float32
    exact = Outer(inputs.bfloat16().float(), backprops.bfloat16().float())
    assert torch.equal(factor.squared_norms(), exact.squared_norms())
    total = torch.zeros(whole.shape[1:])
    factor.add_to(total, torch.ones(B))
    assert close(total, exact.rows().sum(0))
