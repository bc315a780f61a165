"""A source that changes under a compilation, and work that is taken up after it changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.bundling.compile import CompileRequest, compile_bundle
from compiler.bundling.copying import copy_file
from compiler.bundling.create import create_bundle
from compiler.bundling.keeping import keep
from compiler.bundling.request import CreateRequest
from compiler.errors import SourceError
from compiler.targets.choosing import choose_target
from compiler.tune.promise import QUALITIES
from security.bundle.opening import open_unsigned
from tests.support.tiny_models import tiny_encoder_dir, tiny_gguf


def asked(source: Path, output: Path) -> CompileRequest:
    return CompileRequest(
        CreateRequest(source, output, "m", "1.0.0", probes=False),
        (choose_target("x86-64-v3"),),
        QUALITIES["small"],
    )


class CutShortError(Exception):
    """What ends work before it is done."""


def when(label: str, act: Callable[[], None]) -> Callable[[str, float], None]:
    """Progress that does something once, when it is told a label."""
    done: list[str] = []

    def progress(told: str, fraction: float) -> None:
        del fraction
        if label in told and not done:
            done.append(told)
            act()

    return progress


def cut() -> None:
    raise CutShortError


def other_weights(folder: Path) -> None:
    other = tiny_encoder_dir(folder.parent / "other", seed=1)
    (other / "model.safetensors").replace(folder / "model.safetensors")


def another_pooling(folder: Path) -> None:
    path = folder / "1_Pooling" / "config.json"
    modes = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), **modes}))


@pytest.mark.parametrize("change", [other_weights, another_pooling])
def test_no_statement_names_files_that_the_model_was_not_made_of(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    progress = when("exporting the encoder", lambda: change(folder))
    with pytest.raises(SourceError, match="changed while it was compiled"):
        compile_bundle(asked(folder, tmp_path / "out"), progress)
    assert not (tmp_path / "out").exists()


def test_a_bundle_is_not_created_of_a_source_that_changes(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    progress = when("exporting the encoder", lambda: other_weights(folder))
    with pytest.raises(SourceError, match="changed while it was compiled"):
        create_bundle(asked(folder, tmp_path / "out").bundle, lambda label: progress(label, 0.0))
    assert not (tmp_path / "out").exists()


def test_a_decoder_that_is_written_to_is_told(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "t.gguf")
    progress = when("copying", path.unlink)
    with pytest.raises(SourceError, match="changed while it was compiled"):
        compile_bundle(asked(path, tmp_path / "out"), progress)


def test_a_copy_is_held_against_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(SourceError, match="changed while it was compiled"):
        copy_file(tmp_path / "a", tmp_path / "b", lambda _: None, sha256="0" * 64)


def test_work_is_not_taken_up_where_only_the_pooling_changed(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    with pytest.raises(CutShortError):
        compile_bundle(asked(folder, tmp_path / "out"), when("comparing it", cut))
    assert (tmp_path / ".out.work" / "unfinished" / "reference.onnx").exists()
    another_pooling(folder)
    for name in ("out", "fresh"):
        compile_bundle(asked(folder, tmp_path / name), lambda *_: None)
    with open_unsigned(tmp_path / "out") as made, open_unsigned(tmp_path / "fresh") as fresh:
        assert made.manifest.encoder is not None
        assert made.manifest.encoder.pooling == "cls"
        model = made.manifest.variants[0].file
        assert made.files[model].sha256 == fresh.files[model].sha256


def test_what_was_finished_is_looked_at_again(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "t.gguf")
    with pytest.raises(CutShortError):
        compile_bundle(asked(path, tmp_path / "out"), when("checking the bundle", cut))
    work = tmp_path / ".out.work" / "unfinished" / "reference.gguf"
    tiny_gguf(work, seed=7)
    keep(work)
    compile_bundle(asked(path, tmp_path / "out"), lambda *_: None)
    with open_unsigned(tmp_path / "out") as made:
        model = made.manifest.variants[0].file
        assert made.files[model].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_finished_work_is_used(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    with pytest.raises(CutShortError):
        compile_bundle(asked(folder, tmp_path / "out"), when("comparing it", cut))
    told: list[str] = []
    compile_bundle(asked(folder, tmp_path / "out"), lambda label, _: told.append(label))
    assert not any("exporting" in label for label in told)
