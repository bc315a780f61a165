"""The order of variants and what each needs, for any set of targets and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from casemate.cpu import AARCH64, LEVELS, X86_64
from compiler.bundling.arranging import arrange, require_levels
from compiler.bundling.formats import exact_anywhere, named_plan
from compiler.bundling.forms import Form
from compiler.errors import QuantizationError, TargetError
from compiler.targets.choosing import named_targets
from compiler.targets.target import Target
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME

NAMED = named_targets()
PLAIN_X86 = Target("old", X86_64, None, (), 2, 1 << 30, 10.0, "file")
PLAIN_ARM = Target("board", AARCH64, None, (), 2, 1 << 30, 10.0, "file")


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


def test_an_exact_form_comes_last_whichever_its_architecture() -> None:
    forms = [
        (NAMED["x86-64-v3"], form("b")),
        (NAMED["armv8.2-dotprod"], form("a", exact=False)),
    ]
    assert [(cpu, label) for _, cpu, label in shown(*forms)] == [
        ("armv8.2-dotprod", "a"),
        (None, "b"),
    ]


def test_one_exact_file_for_two_architectures_is_one_variant() -> None:
    forms = [(NAMED["x86-64-v3"], form("a")), (NAMED["armv8.6-i8mm"], form("a"))]
    assert shown(*forms) == [("default", None, "a")]
    (only,) = arrange(forms)
    assert {one.name for one in only.targets} == {"x86-64-v3", "armv8.6-i8mm"}


def test_targets_that_cannot_be_told_apart() -> None:
    vnni = NAMED["x86-64-v4-vnni"]
    with pytest.raises(TargetError, match="could not tell them apart"):
        require_levels([vnni, replace(vnni, name="mine")])
    # Neither a requirement nor its absence says which architecture is meant.
    with pytest.raises(TargetError, match=r"'old' \(x86-64\) and 'board' \(aarch64\)"):
        arrange([(PLAIN_X86, form("a")), (PLAIN_ARM, form("b"))])
    require_levels([*NAMED.values(), PLAIN_ARM])


def test_a_target_without_a_level_takes_what_is_exact() -> None:
    with pytest.raises(TargetError, match="'board' has no level"):
        arrange([(NAMED["x86-64-v3"], form("a")), (PLAIN_ARM, form("b", exact=False))])


def test_formats_by_name() -> None:
    assert named_plan(LLAMA_CPP, "Q4_k_M").to_dict()["default"] == "Q4_K_M"
    for level in LEVELS:
        assert exact_anywhere(named_plan(LLAMA_CPP, "q8_0", NAMED.get(level)))
    assert exact_anywhere(named_plan(ONNXRUNTIME, "float16"))
    with pytest.raises(QuantizationError, match="GGUF has no format 'int8'"):
        named_plan(LLAMA_CPP, "int8")
    with pytest.raises(QuantizationError, match="ONNX has no format 'q4_0'"):
        named_plan(ONNXRUNTIME, "q4_0")
