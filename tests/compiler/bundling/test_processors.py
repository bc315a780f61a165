"""Which file of a bundle runs on processors that there are, by the appliance's own choice.

A file with weights of all 8 bits is exact only on processors that sum products of bytes in 32
bits. Whatever a bundle was compiled for, such a file must reach no other processor, and each
target must get the file that was made for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.cpu import X86_64, CpuFeatures, from_cpuinfo
from compiler.bundling.arranging import CompiledVariant, arrange
from compiler.bundling.formats import exact_anywhere, named_plan, needs_spare_bit
from compiler.bundling.forms import Form
from compiler.targets.choosing import named_targets, this_machine
from compiler.targets.target import Target
from runtime.errors import NoVariant
from runtime.worker.variant import choose_variant
from security.bundle.manifest import ONNXRUNTIME, Variant
from tests.support.forged_bundles import manifest

_ZEN_2 = (
    "fpu cx8 cmov mmx fxsr sse sse2 ht syscall nx lm constant_tsc pni pclmulqdq ssse3 fma cx16 "
    "sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm sse4a bmi1 avx2 smep bmi2 "
    "rdseed adx clflushopt clwb sha_ni xsaveopt rdpid"
)
_ALDER_LAKE = f"{_ZEN_2.replace('sse4a ', '')} avx_vnni gfni vaes vpclmulqdq serialize hybrid_cpu"
_AVX_512 = "avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni avx512_bitalg avx512_vbmi2"
_CORTEX_A72 = "fp asimd evtstrm crc32 cpuid"
_CORTEX_A76 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
_NEOVERSE_V1 = (
    f"{_CORTEX_A76} sha3 sha512 asimdfhm sve ilrcpc svei8mm svebf16 i8mm bf16 flagm ssbs dgh rng"
)


def _processor(machine: str, features: str) -> CpuFeatures:
    word = "flags" if machine == "x86_64" else "Features"
    return from_cpuinfo(f"processor : 0\n{word} : {features}\n", machine, frozenset({0}), 1)


PROCESSORS = {
    "Zen 2": _processor("x86_64", _ZEN_2),
    "Alder Lake": _processor("x86_64", _ALDER_LAKE),
    "Ice Lake": _processor("x86_64", f"{_ZEN_2} {_AVX_512}"),
    "Zen 5": _processor("x86_64", f"{_ZEN_2} {_AVX_512} avx512_bf16 avx_vnni"),
    "Raspberry Pi 4": _processor("aarch64", _CORTEX_A72),
    "Raspberry Pi 5": _processor("aarch64", _CORTEX_A76),
    "Graviton 3": _processor("aarch64", _NEOVERSE_V1),
}
LEVELS = {
    "Zen 2": "x86-64-v3",
    "Alder Lake": "x86-64-v3",
    "Ice Lake": "x86-64-v4-vnni",
    "Zen 5": "x86-64-v4-vnni",
    "Raspberry Pi 4": None,
    "Raspberry Pi 5": "armv8.2-dotprod",
    "Graviton 3": "armv8.6-i8mm",
}
NAMED = named_targets()
# Each of those machines compiled on itself, and each name.
TARGETS = {
    **NAMED,
    **{name: this_machine(cpu, bandwidth_gb_s=20.0) for name, cpu in PROCESSORS.items()},
    "old": Target("old", X86_64, None, (), 2, 1 << 30, 10.0, "file"),
}
_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "asimddp"}


def forms(targets: Sequence[Target]) -> list[tuple[Target, Form]]:
    """Return the form of each target that `--format int8` makes, without making it."""
    made = []
    for target in targets:
        plan = named_plan(ONNXRUNTIME, "int8", target)
        exact = exact_anywhere(plan)
        path = Path("spare.onnx" if exact else "full.onnx")
        made.append((target, Form(path.stem, path, plan.to_dict(), exact)))
    return made


def runs(variants: Sequence[CompiledVariant], cpu: CpuFeatures) -> str | None:
    """Return the label of the file that an appliance with a processor runs, or None."""
    listed = tuple(Variant.of(one.id, ONNXRUNTIME, one.cpu) for one in variants)
    try:
        found = choose_variant(manifest(task="embed", variants=listed), cpu)
    except NoVariant:
        return None
    return next(one.form.label for one in variants if one.id == found.id)


def tellable(targets: Sequence[Target]) -> bool:
    places = [(one.arch, one.level) for one in targets]
    plain = [level for _, level in places if level is None]
    return len(set(places)) == len(places) and len(plain) < 2


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_has_the_level_that_it_is_known_to_have(name: str) -> None:
    assert PROCESSORS[name].level == LEVELS[name]


def test_only_a_level_that_guarantees_wide_sums_takes_all_bits() -> None:
    assert needs_spare_bit(None)
    full = {name for name, target in TARGETS.items() if not needs_spare_bit(target)}
    assert full == {
        *("x86-64-v4-vnni", "armv8.2-dotprod", "armv8.6-i8mm"),
        *("Ice Lake", "Zen 5", "Raspberry Pi 5", "Graviton 3"),
    }


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_bits_reach_no_processor_that_would_saturate(count: int) -> None:
    for targets in combinations(TARGETS.values(), count):
        if not tellable(targets):
            continue
        variants = arrange(forms(targets))
        for name, cpu in PROCESSORS.items():
            names = [target.name for target in targets]
            if runs(variants, cpu) == "full":
                assert cpu.features & _WIDE_SUMS, (names, name)
            # What is exact everywhere runs everywhere.
            elif runs(variants, cpu) is None:
                assert all(one.form.label == "full" for one in variants), (names, name)


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_was_compiled_on_a_machine_runs_there(name: str) -> None:
    variants = arrange(forms([TARGETS[name]]))
    assert runs(variants, PROCESSORS[name]) == (
        "spare" if needs_spare_bit(TARGETS[name]) else "full"
    )


def test_one_file_for_two_architectures_runs_on_both() -> None:
    for arm, board in (("armv8.2-dotprod", "Raspberry Pi 5"), ("armv8.6-i8mm", "Graviton 3")):
        variants = arrange(forms([NAMED["x86-64-v4-vnni"], NAMED[arm]]))
        assert runs(variants, PROCESSORS["Ice Lake"]) == "full"
        assert runs(variants, PROCESSORS[board]) == "full"
        assert runs(variants, PROCESSORS["Zen 2"]) is None
        assert runs(variants, PROCESSORS["Raspberry Pi 4"]) is None


def least(arch: str, level: str | None) -> CpuFeatures:
    """Return the least able processor of a level."""
    target = Target("least", arch, level, (), 1, 1 << 30, 1.0, "file")
    return CpuFeatures(arch, target.instructions, 1, 1, "")


@given(
    st.lists(st.sampled_from([*NAMED, "Raspberry Pi 4", "old"]), min_size=1, unique=True).filter(
        lambda names: tellable([TARGETS[name] for name in names])
    ),
    st.data(),
)
def test_every_target_gets_the_file_that_was_made_for_it(
    names: list[str], data: st.DataObject
) -> None:
    exact = {label: data.draw(st.booleans(), label) for label in "abc"}
    made = []
    for target in (TARGETS[name] for name in names):
        labels = [one for one in "abc" if exact[one] or target.level is not None]
        if not labels:
            return
        label = data.draw(st.sampled_from(labels), target.name)
        made.append((target, Form(label, Path(label), {}, exact[label])))
    variants = arrange(made)
    for target, form in made:
        assert runs(variants, least(target.arch, target.level)) == form.label
    assert len({one.id for one in variants}) == len(variants)
    assert sorted(t.name for one in variants for t in one.targets) == sorted(
        target.name for target, _ in made
    )
    # Whatever needs nothing computes the same everywhere, and comes last.
    assert all(one.cpu is not None for one in variants[:-1])
    assert variants[-1].cpu is not None or variants[-1].form.exact_anywhere
