"""privacy.json: what goes in comes out, and nothing else is read."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from security.strictjson import canonical
from tests.trainer.privacy.reports import DIGEST, checkpoint, report
from trainer.errors import CheckpointError
from trainer.privacy.record import (
    REPORT_NAME,
    PrivacyReport,
    decode_report,
    read_report,
    write_report,
)
from trainer.privacy.sections import Evidence

Edit = Callable[[Any], object]


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "final")
    written = report(folder)
    path = write_report(folder, written)
    assert read_report(folder) == written
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(each.name for each in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "privacy.json",
        "training.json",
    ]


def test_a_report_with_nothing_optional_is_read_too() -> None:
    bare = report(evidence=Evidence(), utility=None)
    composition = replace(bare.composition, earlier=(), budget=None, ledger_head=None)
    accounting = replace(bare.accounting, epsilon_prv=None, epsilon_unamplified=None)
    bare = replace(bare, composition=composition, accounting=accounting)
    assert decode_report(bare.encode()) == bare
    assert not bare.standing.audited


def test_the_claim_is_what_an_appliance_would_read() -> None:
    standing = report().standing
    assert (standing.epsilon, standing.unit, standing.contributions) == (3.0, "user", 4)
    assert standing.audited


def test_a_report_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "final")
    write_report(folder, report(folder))
    later = report(folder, created="2026-02-02T03:04:05Z")
    (folder / ".privacy.json.partial").write_text("left by a crash")
    write_report(folder, later)
    assert read_report(folder) == later
    assert not (folder / ".privacy.json.partial").exists()


def test_a_report_about_another_model_is_neither_written_nor_read(tmp_path: Path) -> None:
    one, other = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two", b"other")
    with pytest.raises(CheckpointError, match="another model"):
        write_report(other, report(one))
    assert not (other / REPORT_NAME).exists()
    write_report(one, report(one))
    (one / REPORT_NAME).rename(other / REPORT_NAME)
    with pytest.raises(CheckpointError, match="the report of another model"):
        read_report(other)


def test_weights_that_were_changed_have_no_report(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "final")
    write_report(folder, report(folder))
    (folder / "model.safetensors").write_bytes(b"others")
    with pytest.raises(CheckpointError, match="another model"):
        read_report(folder)


def test_without_a_training_record_there_is_nothing_to_bind_to(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "final")
    made = report(folder)
    (folder / "training.json").unlink()
    with pytest.raises(CheckpointError, match=r"no training\.json"):
        write_report(folder, made)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"privacy\.json cannot be read"):
        read_report(checkpoint(tmp_path / "final"))


def _at(place: str) -> tuple[Callable[[Any], Any], str]:
    *way, last = place.split("/")

    def find(document: Any) -> Any:
        for step in way:
            document = document[int(step)] if step.isdigit() else document[step]
        return document

    return find, last


def _set(place: str, value: Any) -> Edit:
    find, last = _at(place)
    return lambda document: find(document).__setitem__(last, value)


def _drop(place: str) -> Edit:
    find, last = _at(place)
    return lambda document: find(document).__delitem__(last)


BAD: dict[str, Edit] = {
    "epsilon edited": _set("claim/epsilon", 0.3),
    "epsilon below the curve": _set("claim/epsilon", 2.9),
    "epsilon below that of the run": _set("composition/epsilon_of_this_run", 3.1),
    "unknown section": _set("extra", 1),
    "missing section": _drop("randomness"),
    "another format": _set("format", "casemate.privacy/2"),
    "unknown key": _set("mechanism/seed", 7),
    "missing key": _drop("mechanism/steps"),
    "steps as text": _set("mechanism/steps", "156"),
    "steps as true": _set("mechanism/steps", True),
    "steps negative": _set("mechanism/steps", -1),
    "steps as a fraction": _set("mechanism/steps", 1.5),
    "a batch is all and more": _set("mechanism/sampling_probability", 1.1),
    "nothing is sampled": _set("mechanism/sampling_probability", 0),
    "a cap that the sampling has not": _set("claim/sampling", "poisson"),
    "curves of different lengths": _set("accounting/curve/rdp", [3.4]),
    "deltas that fall": _set("accounting/curve/deltas", [1e-3, 1e-5, 1e-8]),
    "a curve of texts": _set("accounting/curve/pld", ["a", "b", "c"]),
    "versions as numbers": _set("accounting/packages/opacus", 1.6),
    "an earlier release lacks a key": _drop("composition/earlier/0/cap"),
    "the ledger's head is no digest": _set("composition/ledger_head", "abc"),
    "canaries without a digest": _set("evidence/canaries_sha256", "abc"),
    "an audit of unknown canaries": _set("evidence/canaries_sha256", None),
    "calibrated as a number": _set("evidence/calibrated", 1),
    "an interval as a number": _set("evidence/membership/auc_interval", 0.5),
    "a hazard without an answer": _drop("hazards/0/answer"),
    "hazards as an object": _set("hazards", {}),
    "not protected as a text": _set("not_protected", "all"),
    "a time without a zone": _set("created", "2026-01-02T03:04:05"),
    "weights unnamed": _drop("model/weights_sha256"),
    "epsilon as text": _set("claim/epsilon", "3"),
    "delta zero": _set("claim/delta", 0),
    "delta that lets one of all be published": _set("claim/delta", 0.001),
}


@pytest.mark.parametrize("edit", BAD.values(), ids=BAD.keys())
def test_a_record_that_breaks_a_rule_is_refused(edit: Edit) -> None:
    document = json.loads(report().encode())
    edit(document)
    with pytest.raises(CheckpointError):
        decode_report(canonical(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b'"epsilon":3', b'"epsilon":3.0', 1),
        lambda data: data.replace(b'"epsilon":3', b'"epsilon":NaN', 1),
        lambda data: data.replace(b'"epsilon":3', b'"epsilon":9,"epsilon":3', 1),
        lambda data: b"",
        lambda data: b"[]",
        lambda data: b"\xff",
    ],
)
def test_bytes_that_readers_could_read_differently_are_refused(
    change: Callable[[bytes], bytes],
) -> None:
    with pytest.raises(CheckpointError):
        decode_report(change(report().encode()))


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf"), -1.0, 0.0, 1e9])
def test_what_could_not_be_read_is_not_written(epsilon: float) -> None:
    made = report()
    broken = replace(made, claim=replace(made.claim, epsilon=epsilon))
    with pytest.raises(CheckpointError):
        broken.encode()


def test_a_refuted_claim_can_be_kept_on_record() -> None:
    made = report()
    audit = made.evidence.audit
    assert audit is not None
    shown = replace(made.evidence, audit=replace(audit, lower_bound=3.5))
    read: PrivacyReport = decode_report(report(evidence=shown).encode())
    assert read.standing.refuted
    assert any("THIS IS MORE THAN IS CLAIMED" in hazard.answer for hazard in read.hazards)


def test_digests_are_of_the_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "final")
    assert report(folder).model.weights_sha256 != DIGEST
