"""The order of variants and what each needs, for any set of targets and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.cpu import AARCH64, LEVELS, X86_64
from compiler.bundling.compile import arrange, require_levels
from compiler.bundling.formats import exact_anywhere, named_plan, needs_spare_bit
from compiler.bundling.forms import Form
from compiler.errors import QuantizationError, TargetError
from compiler.targets.choosing import named_targets
from compiler.targets.target import Target
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME

NAMED = named_targets()
PLAIN_X86 = Target("old", X86_64, None, (), 2, 1 << 30, 10.0, "file")
TARGETS = [*NAMED.values(), PLAIN_X86]


def form(name: str, *, exact: bool = True) -> Form:
    return Form(name, Path(name), {}, exact)


def shown(*forms: tuple[Target, Form]) -> list[tuple[str, str | None, str]]:
    return [(one.id, one.cpu, one.form.label) for one in arrange(forms)]


def test_one_form_needs_nothing_if_it_is_exact_everywhere() -> None:
    assert shown((NAMED["x86-64-v4-vnni"], form("a"))) == [("default", None, "a")]
    (only,) = shown((NAMED["x86-64-v4-vnni"], form("a", exact=False)))
    assert only == ("default", "x86-64-v4-vnni", "a")


def test_the_more_able_processor_comes_first() -> None:
    forms = [
        (NAMED["x86-64-v3"], form("b")),
        (NAMED["x86-64-v4-vnni"], form("a", exact=False)),
        (NAMED["armv8.2-dotprod"], form("c")),
    ]
    assert [(cpu, label) for _, cpu, label in shown(*forms)] == [
        ("x86-64-v4-vnni", "a"),
        ("x86-64-v3", "b"),
        (None, "c"),
    ]


@given(
    st.lists(st.sampled_from(TARGETS), min_size=1, unique_by=lambda one: one.name),
    st.data(),
)
def test_every_target_finds_its_form(targets: list[Target], data: st.DataObject) -> None:
    exact = {name: data.draw(st.booleans()) for name in "abc"}
    forms = [
        (target, form(name, exact=exact[name]))
        for target in targets
        for name in [data.draw(st.sampled_from("abc"))]
    ]
    variants = arrange(forms)
    assert len({one.id for one in variants}) == len(variants)
    assert sorted(t.name for one in variants for t in one.targets) == sorted(
        target.name for target in targets
    )
    for one in variants[:-1]:
        assert one.cpu is not None or any(target.level is None for target in one.targets)
    assert variants[-1].cpu is None or not variants[-1].form.exact_anywhere


def test_targets_that_cannot_be_told_apart() -> None:
    vnni = NAMED["x86-64-v4-vnni"]
    with pytest.raises(TargetError, match="could not tell them apart"):
        require_levels([vnni, replace(vnni, name="mine")])
    require_levels(list(NAMED.values()))


def test_eight_bits_need_a_spare_one_without_vnni() -> None:
    assert needs_spare_bit(None)
    assert needs_spare_bit(PLAIN_X86)
    for name, target in NAMED.items():
        wanted = target.arch == X86_64 and name != "x86-64-v4-vnni"
        assert needs_spare_bit(target) is wanted
        assert exact_anywhere(named_plan(ONNXRUNTIME, "int8", target)) is wanted
    assert NAMED["armv8.6-i8mm"].arch == AARCH64


def test_formats_by_name() -> None:
    assert named_plan(LLAMA_CPP, "Q4_k_M").to_dict()["default"] == "Q4_K_M"
    for level in LEVELS:
        assert exact_anywhere(named_plan(LLAMA_CPP, "q8_0", NAMED.get(level)))
    assert exact_anywhere(named_plan(ONNXRUNTIME, "float16"))
    with pytest.raises(QuantizationError, match="GGUF has no format 'int8'"):
        named_plan(LLAMA_CPP, "int8")
    with pytest.raises(QuantizationError, match="ONNX has no format 'q4_0'"):
        named_plan(ONNXRUNTIME, "q4_0")
