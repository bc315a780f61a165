"""The model that scales measured speeds to another machine: what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.onnx_quantize.plan import (
    BLOCKS,
    DYNAMIC_INT8,
    FLOAT16,
    FLOAT32,
    STATIC_INT8,
    OnnxPlan,
)
from compiler.targets.choosing import named_targets
from compiler.targets.target import Target
from compiler.tune.candidate import Speed
from compiler.tune.onnx_predict import Work, products_seconds, scaled, work_of

# MiniLM: six layers of four 384 x 384 and two 384 x 1536 matrices.
SHAPES = {f"{layer}.{n}": (384, 384 if n < 4 else 1536) for layer in range(6) for n in range(6)}
USES = tuple(SHAPES)
VNNI = named_targets()["x86-64-v4-vnni"]
AVX2 = named_targets()["x86-64-v3"]
DYNAMIC = OnnxPlan(kind=DYNAMIC_INT8)
PLANS = [
    OnnxPlan(kind=FLOAT32),
    OnnxPlan(kind=FLOAT16),
    DYNAMIC,
    OnnxPlan(kind=STATIC_INT8),
    OnnxPlan(kind=BLOCKS, bits=8),
    OnnxPlan(kind=BLOCKS, bits=4),
]
LONG = {"encode@32x128": 100.0}
ALL = {"encode@1x16": 500.0, "encode@1x128": 90.0, "encode@32x16": 1000.0, **LONG}


def there(plan: OnnxPlan, target: Target, here: Target = VNNI) -> dict[str, float]:
    return dict(scaled(Speed(ALL), work_of(SHAPES, USES, plan), here, target).rates)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
def test_a_machine_like_this_one_gets_what_was_measured(plan: OnnxPlan) -> None:
    assert there(plan, VNNI) == pytest.approx(ALL)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.label)
def test_twice_the_cores_are_up_to_twice_as_fast(plan: OnnxPlan) -> None:
    wide = replace(VNNI, cores=8)
    rates = there(plan, wide)
    assert all(rate <= rates[name] <= 2 * rate * 1.0001 for name, rate in ALL.items())
    assert rates["encode@32x128"] == pytest.approx(200.0)


def test_many_cores_do_not_help_a_short_text() -> None:
    rates = there(OnnxPlan(kind=FLOAT32), replace(VNNI, cores=64, bandwidth_gb_s=1000.0))
    assert rates["encode@32x128"] == pytest.approx(1600.0)
    assert rates["encode@1x16"] < 4 * ALL["encode@1x16"]


def test_less_bandwidth_slows_what_waits_for_memory() -> None:
    slow = replace(VNNI, bandwidth_gb_s=1.0)
    rates = there(OnnxPlan(kind=FLOAT32), slow)
    assert rates["encode@1x16"] < ALL["encode@1x16"] / 5
    assert rates["encode@32x128"] == pytest.approx(100.0)


def gain(target: Target) -> float:
    """How much faster whole matrices in 8 bits are than float there, if they are 4x here."""
    quick, plain = Speed({"encode@32x128": 400.0}), Speed(LONG)
    found = [
        scaled(speed, work_of(SHAPES, USES, plan), VNNI, target).rates["encode@32x128"]
        for speed, plan in ((quick, DYNAMIC), (plain, OnnxPlan(kind=FLOAT32)))
    ]
    return found[0] / found[1]


def test_8_bits_gain_less_without_vnni_and_more_with_tiles() -> None:
    assert gain(VNNI) == pytest.approx(4.0)
    assert 1.0 < gain(AVX2) < 2.5
    assert gain(replace(VNNI, features=("amx_int8",))) > 6.0


def test_what_is_no_product_scales_with_float_work() -> None:
    work = work_of(SHAPES, USES, DYNAMIC)
    slow = {"encode@32x128": 1.0}
    rates = scaled(Speed(slow), work, VNNI, replace(AVX2, bandwidth_gb_s=1000.0)).rates
    # Thirty-two seconds, of which products are a twentieth of one.
    assert rates["encode@32x128"] == pytest.approx(40 / 50, rel=0.01)


def test_tensors_left_in_float_are_multiplied_in_float() -> None:
    half = tuple(sorted(name for name in SHAPES if name[0] in "012"))
    mixed = work_of(SHAPES, USES, replace(DYNAMIC, excluded=half))
    whole, plain = work_of(SHAPES, USES, DYNAMIC), work_of(SHAPES, USES, OnnxPlan(kind=FLOAT32))
    assert mixed.products == (plain.products[0] / 2, whole.products[1] / 2, 0.0)
    assert mixed.matrix_bytes == (plain.matrix_bytes + whole.matrix_bytes) / 2


def test_a_graph_without_matrices_scales_with_a_core() -> None:
    work = work_of({}, (), DYNAMIC)
    assert products_seconds(work, AVX2, 1) > products_seconds(work, VNNI, 1) > 0
    assert products_seconds(work, VNNI, 1) == products_seconds(work, replace(VNNI, cores=64), 1)


def test_what_is_scaled_is_marked_and_says_nothing_of_loading() -> None:
    speed = scaled(Speed(ALL, 0.5, 80.0), Work((1e6, 0, 0), 4e6), VNNI, AVX2)
    assert speed.predicted
    assert speed.load_seconds is None
    assert speed.peak_mib == 80.0


@settings(deadline=None)
@given(st.integers(1, 64), st.floats(1.0, 500.0), st.sampled_from(list(named_targets())))
def test_no_machine_is_slower_for_more_of_anything(cores: int, gb_s: float, name: str) -> None:
    target = replace(named_targets()[name], cores=cores, bandwidth_gb_s=gb_s)
    better = replace(target, cores=cores + 1, bandwidth_gb_s=gb_s * 1.5)
    for plan in PLANS:
        work = work_of(SHAPES, USES, plan)
        for tokens in (1, 16, 512, 4096):
            assert (
                0 < products_seconds(work, better, tokens) <= products_seconds(work, target, tokens)
            )
