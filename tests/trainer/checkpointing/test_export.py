"""training.json and the exported directory: what they say, and that they appear whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

import casemate
import trainer
from security.checkpoint.signing import sign_checkpoint
from security.checkpoint.verifying import verify_checkpoint
from security.strictjson import canonical
from tests.support.forged_bundles import signing_keys, trusting
from trainer.checkpointing import origin
from trainer.checkpointing.export import export_checkpoint
from trainer.checkpointing.origin import code_version, describe_environment, parent_of
from trainer.checkpointing.record import (
    CodeVersion,
    Environment,
    Parent,
    RecordedFile,
    Source,
    TrainingRecord,
    decode_record,
    read_record,
)
from trainer.errors import CheckpointError
from trainer.models.weights import Origin
from trainer.recipe.schema import DataOptions, ModelOptions, Recipe

DIGEST = "ab" * 32
CPU = torch.device("cpu")


class _Network:
    """Saves a configuration and one weight."""

    def __init__(self, value: float = 1.0, size: int = 4) -> None:
        self.state = {"w": torch.full((size,), value)}

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        (folder / "config.json").write_text('{"model_type":"tiny"}')
        save_file(dict(state or self.state), folder / "model.safetensors")


class _Tokenizer:
    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def _record(**changes: Any) -> TrainingRecord:
    record = TrainingRecord(
        name="tiny",
        created="2026-01-02T03:04:05Z",
        recipe_digest=DIGEST,
        recipe={"run": {"steps": 3, "labels": ["a"]}},
        data_fingerprint="fp",
        sources=(Source("a.txt", DIGEST, 5, "train"),),
        seeds={"run": 1},
        steps=3,
        metrics={"loss": 1.5},
        code=CodeVersion("0.1.0", DIGEST),
        environment=Environment("3.11", "Linux", "cpu", ("H100",), {"torch": "2"}, 2),
        parent=Parent(DIGEST, None),
        files={"model.safetensors": RecordedFile(DIGEST, 7)},
    )
    return dataclasses.replace(record, **changes)


def test_an_export_is_whole_digested_and_can_be_signed(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        final = export_checkpoint(tmp_path / "final", _Network(), None, _Tokenizer(), _record())
    finally:
        os.umask(old)
    assert final == tmp_path / "final"
    record = read_record(final)
    assert sorted(record.files) == ["config.json", "model.safetensors", "tokenizer.json"]
    for name, file in record.files.items():
        data = (final / name).read_bytes()
        assert (file.sha256, file.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert dataclasses.replace(record, files={}) == _record(files={})
    assert {path.stat().st_mode & 0o777 for path in final.iterdir()} == {0o644}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final"]
    sign_checkpoint(final, signing_keys())
    assert verify_checkpoint(final, trusting()).name == "tiny"


def test_an_export_replaces_an_earlier_one_and_its_signatures(tmp_path: Path) -> None:
    final = export_checkpoint(tmp_path / "final", _Network(), None, _Tokenizer(), _record())
    sign_checkpoint(final, signing_keys())
    state = {"w": torch.full((4,), 2.0)}
    export_checkpoint(tmp_path / "final", _Network(), state, None, _record(steps=4))
    assert load_file(final / "model.safetensors")["w"][0] == 2.0
    assert read_record(final).steps == 4
    assert sorted(p.name for p in final.iterdir()) == [
        "config.json",
        "model.safetensors",
        "training.json",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final"]


def test_a_full_disk_leaves_the_earlier_export(tmp_path: Path) -> None:
    final = export_checkpoint(tmp_path / "final", _Network(), None, None, _record())
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        with pytest.raises(CheckpointError, match="could not be exported") as refused:
            export_checkpoint(tmp_path / "final", _Network(size=4000), None, None, _record())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "File too large" in str(refused.value)
    assert load_file(final / "model.safetensors")["w"].numel() == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final"]


def test_a_record_reads_back_as_it_was() -> None:
    record = _record()
    assert decode_record(record.encode()) == record
    assert record.encode() == canonical(json.loads(record.encode()))
    without = _record(parent=None, metrics={}, sources=())
    assert decode_record(without.encode()) == without


@given(
    st.dictionaries(st.text(), st.floats(-(2.0**53) + 1, 2.0**53 - 1), max_size=4),
    st.lists(st.text(max_size=8), max_size=3),
    st.integers(0, 2**53 - 1),
)
def test_any_record_reads_back(metrics: dict[str, float], names: list[str], steps: int) -> None:
    sources = tuple(Source(name, DIGEST, steps, "validation") for name in names)
    record = _record(metrics=metrics, sources=sources, steps=steps)
    assert decode_record(record.encode()) == record


def _changed(path: str, value: object) -> bytes:
    document = json.loads(_record().encode())
    target = document
    *parents, last = path.split("/")
    for key in parents:
        target = target[int(key) if isinstance(target, list) else key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return canonical(document)


@pytest.mark.parametrize(
    ("path", "value", "what"),
    (
        ("steps", None, "'steps' is missing"),
        ("more", 1, "'more' is no key"),
        ("format", "casemate.training/2", "'format'"),
        ("steps", "3", "steps is no integer"),
        ("steps", -1, "steps is no integer"),
        ("steps", True, "steps is no integer"),
        ("created", "yesterday", "created is no text of the right form"),
        ("recipe/digest", "xyz", "recipe.digest"),
        ("recipe/values/run", 3, "recipe.values.run is no object"),
        ("data/sources", {}, "data.sources is no array"),
        ("data/sources/0/role", "test", "role"),
        ("data/sources/0/sha256", "AB" * 32, "sha256"),
        ("metrics/loss", "low", "metrics.loss is no number"),
        ("metrics", [], "metrics is no object"),
        ("environment/accelerators", ["H100", 1], "environment.accelerators"),
        ("environment/ranks", 1.5, "environment.ranks"),
        ("parent/record_sha256", 7, "parent.record_sha256"),
        ("files/model.safetensors", {"sha256": DIGEST}, "'bytes' is missing"),
    ),
)
def test_a_record_that_breaks_a_rule_is_refused_by_its_key(
    path: str, value: object, what: str
) -> None:
    with pytest.raises(CheckpointError) as refused:
        decode_record(_changed(path, value))
    assert what in str(refused.value)


def test_a_record_that_is_not_canonical_or_no_json_is_refused(tmp_path: Path) -> None:
    document = json.loads(_record().encode())
    for data in (json.dumps(document, indent=1).encode(), b"{", b"[]", b'{"a":1,"a":2}'):
        with pytest.raises(CheckpointError):
            decode_record(data)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_record(tmp_path)
    (tmp_path / "training.json").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"training\.json: no strict JSON"):
        read_record(tmp_path)


def test_a_figure_that_is_no_number_cannot_be_recorded() -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        _record(metrics={"loss": float("inf")}).encode()


def test_the_record_of_a_run_names_parent_code_and_machine(tmp_path: Path) -> None:
    parent = export_checkpoint(tmp_path / "base", _Network(), None, None, _record())
    recipe = Recipe(
        model=ModelOptions(source=str(parent)),
        data=DataOptions(train=("/secret/place/corpus.txt",)),
    )
    record = origin.record_of_run(
        recipe,
        name="run",
        sources=[
            {"name": "/secret/place/corpus.txt", "sha256": DIGEST, "bytes": 3, "role": "train"}
        ],
        data_fingerprint="fp",
        steps=5,
        metrics={"loss": 2.0, "perplexity": 1e300, "other": float("nan")},
        device=CPU,
        ranks=2,
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    assert decode_record(record.encode()) == record
    assert record.created == "2026-01-02T03:04:05Z"
    assert record.parent == parent_of(parent)
    assert record.metrics == {"loss": 2.0}
    digest = hashlib.sha256((parent / "model.safetensors").read_bytes()).hexdigest()
    assert record.parent is not None
    assert record.parent.weights_sha256 == digest
    assert record.parent.record_sha256 is not None
    assert record.code.version == casemate.__version__
    assert record.environment.ranks == 2
    # Where data lay is nobody's business.
    assert b"secret" not in record.encode()
    assert record.recipe["data"]["train"] == ["corpus.txt"]


def test_the_digest_of_the_code_tells_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(trainer, "__file__", str(package / "__init__.py"))
    before = code_version()
    lines = "".join(
        f"{hashlib.sha256((package / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("__init__.py", "a.py")
    )
    assert before.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    (package / "a.py").write_text("x = 2\n")
    assert code_version() != before


def test_the_environment_names_what_decides_results() -> None:
    environment = describe_environment(CPU)
    assert environment.packages["torch"].startswith(torch.__version__.split("+", maxsplit=1)[0])
    assert environment.accelerators == ()
    assert environment.cpu
    assert environment.python


def test_a_parent_in_several_files_has_one_digest(tmp_path: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = parent_of(tmp_path)
    (tmp_path / "unused.safetensors").write_bytes(b"not named by the index")
    assert parent_of(tmp_path) == whole
    assert whole.record_sha256 is None
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"other")
    assert parent_of(tmp_path) != whole
    with pytest.raises(CheckpointError, match="holds no weights"):
        parent_of(tmp_path / "nothing")


def test_the_parent_is_what_was_loaded_though_the_files_are_others_by_now(tmp_path: Path) -> None:
    parent = export_checkpoint(tmp_path / "base", _Network(), None, None, _record())
    before = parent_of(parent)
    (parent / "model.safetensors").write_bytes(b"other")
    record = origin.record_of_run(
        Recipe(model=ModelOptions(source=str(parent))),
        name="run",
        sources=[],
        data_fingerprint="fp",
        steps=5,
        metrics={},
        device=CPU,
        origin=Origin(before.weights_sha256, before.record_sha256),
    )
    assert record.parent == before
    assert parent_of(parent) != before


def test_the_example_of_the_written_format_is_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "formats" / "checkpoint.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    record = decode_record(canonical(json.loads(example)))
    assert record.name == "char-shakespeare-cpu"
    # Every key of the record has its line in the table.
    for name in (field.name for field in dataclasses.fields(Environment)):
        assert f".{name}`" in text
