"""A claim that does not hold for exactly these files is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from security.errors import CasemateError
from tests.trainer.evaluation.checkpoints import make
from tests.trainer.privacy.reports import report
from tests.trainer.privacy.synthesis.models import private
from trainer.checkpointing.record import read_record
from trainer.data.tokenizer_files import MAP_FILE
from trainer.errors import CheckpointError
from trainer.privacy.errors import PrivacyError
from trainer.privacy.record import read_report, write_report
from trainer.privacy.synthesis.source import open_private


def test_a_private_decoder_is_opened_with_its_claim(decoder: Path) -> None:
    model = open_private(decoder, "cpu")
    assert model.report == read_report(decoder)
    assert model.checkpoint.network.family == "decoder"
    assert model.record_tokens == 16


def test_a_model_without_a_report_is_refused(tmp_path: Path) -> None:
    made = make("decoder").export(tmp_path / "public")
    with pytest.raises(PrivacyError, match=r"no privacy\.json.*finetune --private"):
        open_private(made, "cpu")


def flipped_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def report_that_is_not_canonical(folder: Path) -> None:
    path = folder / "privacy.json"
    path.write_bytes(path.read_bytes() + b"\n")


def other_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("amber", "ambar"))


def added_tokenizer_settings(folder: Path) -> None:
    # As if the export had not written the file, and somebody put one there.
    record = read_record(folder)
    files = {name: one for name, one in record.files.items() if name != MAP_FILE}
    (folder / "training.json").write_bytes(dataclasses.replace(record, files=files).encode())
    write_report(folder, report(folder))


def lost_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def edited_record(folder: Path) -> None:
    path = folder / "training.json"
    path.write_bytes(path.read_bytes().replace(b'"steps":1', b'"steps":2'))


@pytest.mark.parametrize(
    "damage",
    [
        flipped_weight,
        report_that_is_not_canonical,
        other_tokenizer,
        added_tokenizer_settings,
        lost_configuration,
        edited_record,
    ],
)
def test_files_that_are_not_the_ones_of_the_claim_are_refused(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = private(tmp_path / "decoder")
    damage(folder)
    with pytest.raises(CheckpointError):
        open_private(folder, "cpu")


def test_the_report_of_another_model_is_refused(tmp_path: Path) -> None:
    folder, other = private(tmp_path / "decoder"), private(tmp_path / "other", "recurrent")
    (folder / "privacy.json").write_bytes((other / "privacy.json").read_bytes())
    with pytest.raises(CheckpointError, match="another model"):
        open_private(folder, "cpu")


def test_a_claim_that_its_own_audit_contradicts_is_refused(tmp_path: Path) -> None:
    folder = private(tmp_path / "decoder")
    found = read_report(folder)
    audit = found.evidence.audit
    if audit is None:
        raise AssertionError("the report has an audit")
    audit = dataclasses.replace(audit, lower_bound=3.5)
    evidence = dataclasses.replace(found.evidence, audit=audit)
    write_report(folder, dataclasses.replace(found, evidence=evidence))
    with pytest.raises(PrivacyError, match=r"audit.*larger epsilon"):
        open_private(folder, "cpu")


@pytest.mark.parametrize("task", ["classifier", "masked", "embedding"])
def test_what_writes_no_text_is_refused(tmp_path: Path, task: str) -> None:
    folder = private(tmp_path / task, task)
    with pytest.raises(PrivacyError, match="writes no text"):
        open_private(folder, "cpu")


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CasemateError):
        open_private(tmp_path, "cpu")
