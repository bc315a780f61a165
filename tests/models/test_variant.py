"""Which variant of a bundle an appliance runs, and what becomes of the others."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.cpu import AARCH64, LEVELS, X86_64, CpuFeatures, detect
from runtime.errors import NoVariant
from runtime.models.catalog import ModelCatalog
from runtime.models.hosting import worker_hosts
from runtime.probes.record import record
from runtime.store import Store
from runtime.worker.settings import WorkerConfig
from runtime.worker.variant import choose_variant
from security.bundle.manifest import LLAMA_CPP, ONNXRUNTIME, Variant
from security.errors import BundleError
from tests.support.bundles import signed_bundle
from tests.support.forged_bundles import manifest
from tests.support.tiny_models import tiny_onnx

CONFIG = WorkerConfig(threads=1)
# A level of the other architecture: this machine never has it.
FOREIGN = "x86-64-v2" if detect().arch == AARCH64 else "armv8.2-dotprod"


def cpu(*levels: str, arch: str = X86_64) -> CpuFeatures:
    """A processor that has just what these levels need."""
    features: frozenset[str] = frozenset().union(*(LEVELS[level].features for level in levels))
    return CpuFeatures(arch, features, 1, 1, "")


def chosen(processor: CpuFeatures, **variants: str | None) -> str:
    """The id that is chosen of variants given as id=level."""
    made = tuple(Variant.of(name, LLAMA_CPP, level) for name, level in variants.items())
    return choose_variant(manifest(variants=made), processor).id


def test_the_first_that_the_processor_satisfies_runs() -> None:
    variants = {"fast": "x86-64-v4-vnni", "middle": "x86-64-v3", "any": None}
    assert chosen(cpu("x86-64-v4-vnni"), **variants) == "fast"
    assert chosen(cpu("x86-64-v3"), **variants) == "middle"
    assert chosen(cpu("x86-64-v2"), **variants) == "any"
    assert chosen(cpu("armv8.6-i8mm", arch=AARCH64), **variants) == "any"


def test_the_order_is_the_bundles_and_not_the_levels() -> None:
    assert chosen(cpu("x86-64-v4-vnni"), low="x86-64-v2", high="x86-64-v4-vnni") == "low"


def test_a_level_of_a_later_version_falls_through() -> None:
    assert chosen(cpu("x86-64-v4-vnni"), new="x86-64-v9-amx", old="x86-64-v3") == "old"


def test_none_is_refused_with_what_is_missing() -> None:
    with pytest.raises(NoVariant) as refused:
        chosen(cpu("x86-64-v3"), arm="armv8.6-i8mm", vnni="x86-64-v4-vnni", new="later")
    told = str(refused.value)
    assert "arm needs armv8.6-i8mm (without aarch64)" in told
    assert "avx512_vnni" in told
    assert "new needs later (a level that this version does not know)" in told


@given(
    st.lists(st.none() | st.sampled_from([*LEVELS, "unknown"]), min_size=1, max_size=6),
    st.sampled_from(list(LEVELS.values())),
)
def test_what_is_chosen_can_run_and_nothing_before_it_can(
    levels: list[str | None], level: Any
) -> None:
    processor = CpuFeatures(level.arch, level.features, 1, 1, "")
    variants = tuple(Variant.of(f"v{i}", LLAMA_CPP, need) for i, need in enumerate(levels))
    fits = [
        v for v in variants if v.cpu is None or (v.cpu in LEVELS and processor.satisfies(v.cpu))
    ]
    try:
        assert choose_variant(manifest(variants=variants), processor) == fits[0]
    except NoVariant:
        assert not fits


def two_variants(*levels: str | None) -> tuple[Variant, ...]:
    return tuple(Variant.of(f"v{i}", ONNXRUNTIME, level) for i, level in enumerate(levels))


async def test_the_appliance_runs_the_fitting_one_and_says_which(tmp_path: Path) -> None:
    source = tiny_onnx(tmp_path / "model.onnx")
    sample = signed_bundle(tmp_path, source, "tensor", variants=two_variants(FOREIGN, None)).path
    await asyncio.to_thread(record, sample, CONFIG)
    probes = (sample / "probes.jsonl").read_bytes()
    with Store.open(tmp_path / "store") as store:
        bundle = signed_bundle(
            store.incoming, source, "tensor", probes=probes, variants=two_variants(FOREIGN, None)
        )
        catalog = ModelCatalog(store, bundle.trust, worker_hosts(CONFIG))
        await catalog.start()
        try:
            installed = await catalog.install(bundle.path.name)
            assert installed.version.variant == "v1"
            assert catalog.describe("tiny-tensor").model.versions[0].variant == "v1"
            assert catalog.resolve("tiny-tensor").variant.id == "v1"
        finally:
            await catalog.close()


async def test_a_bundle_for_other_processors_is_not_even_stored(tmp_path: Path) -> None:
    source = tiny_onnx(tmp_path / "model.onnx")
    probes = json.dumps(
        {"id": "p1", "kind": "tensor", "request": {}, "expect": {}, "tolerance": {}}
    ).encode()
    with Store.open(tmp_path / "store") as store:
        bundle = signed_bundle(
            store.incoming, source, "tensor", probes=probes, variants=two_variants(FOREIGN, "new-1")
        )
        catalog = ModelCatalog(store, bundle.trust, worker_hosts(CONFIG))
        await catalog.start()
        try:
            with pytest.raises(NoVariant, match=f"v0 needs {FOREIGN}"):
                await catalog.install(bundle.path.name)
            assert not store.versions()
        finally:
            await catalog.close()


async def test_probes_can_be_recorded_for_another_processor(tmp_path: Path) -> None:
    source = tiny_onnx(tmp_path / "model.onnx")
    path = signed_bundle(tmp_path, source, "tensor", variants=two_variants(FOREIGN)).path
    assert await asyncio.to_thread(record, path, CONFIG)


def test_the_others_are_checked_and_then_let_go(tmp_path: Path) -> None:
    source = tiny_onnx(tmp_path / "model.onnx")
    made = signed_bundle(tmp_path, source, "tensor", variants=two_variants(FOREIGN, None))
    with made.open() as opened:
        assert set(opened.summaries) == {"v0", "v1"}
        kept = opened.keep_variant("v1")
        assert kept.files["variants/v1/model.onnx"].read() == source.read_bytes()
        gone = kept.files["variants/v0/model.onnx"]
        assert gone.sha256 == kept.files["variants/v1/model.onnx"].sha256
        with pytest.raises(BundleError) as refused:
            gone.read()
        assert refused.value.reason == "released"
        assert kept.keep_variant("v1").files.keys() == opened.files.keys()


def test_a_defect_in_a_variant_that_would_not_run_is_refused(tmp_path: Path) -> None:
    source = tiny_onnx(tmp_path / "model.onnx")
    made = signed_bundle(tmp_path, source, "tensor", variants=two_variants(FOREIGN, None))
    with (made.path / "variants/v0/model.onnx").open("r+b") as file:
        file.write(b"\0")
    with pytest.raises(BundleError) as refused:
        made.open()
    assert refused.value.reason == "digest-mismatch"
