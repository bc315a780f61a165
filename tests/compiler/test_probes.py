"""Creating a bundle ends by running it: in the real worker, with its sandbox on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.bundling.create import CreateRequest, create_bundle
from compiler.errors import SourceError
from security.bundle.opening import open_unsigned
from tests.preparse.bad_onnx import valid
from tests.support.tiny_models import tiny_classifier_dir, tiny_encoder_dir, tiny_gguf, tiny_onnx


@pytest.mark.parametrize("make", [tiny_gguf, tiny_onnx, tiny_encoder_dir, tiny_classifier_dir])
def test_every_kind_of_bundle_answers_its_probes(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    suffix = {"tiny_gguf": ".gguf", "tiny_onnx": ".onnx"}.get(make.__name__, "")
    source = make(tmp_path / f"m{suffix}")
    said: list[str] = []
    created = create_bundle(CreateRequest(source, tmp_path / "b", "t", "1.0.0"), said.append)
    assert created.probes
    assert created.note is None
    assert any("probes" in line for line in said)
    with open_unsigned(tmp_path / "b") as bundle:
        lines = bundle.files["probes.jsonl"].read().splitlines()
    assert all(json.loads(line)["expect"] for line in lines)


def test_a_model_that_cannot_run_is_no_bundle(tmp_path: Path) -> None:
    """An operator that the pre-parser cannot know to be missing from the runtime."""
    model = valid()
    model.graph.node[0].op_type = "NoSuchOperator"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    request = CreateRequest(tmp_path / "m.onnx", tmp_path / "b", "t", "1.0.0")
    with pytest.raises(SourceError, match=r"m\.onnx: .*cannot be run"):
        create_bundle(request, lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx"]


def test_without_the_runtime_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    request = CreateRequest(tiny_onnx(tmp_path / "m.onnx"), tmp_path / "b", "t", "1.0.0")
    created = create_bundle(request, lambda _: None)
    assert not created.probes
    assert created.note is not None
    assert "runtime extra" in created.note
