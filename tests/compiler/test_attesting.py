"""A checkpoint's records become statements about the model file that was made of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from casemate.cli.main import cli
from compiler.bundling.attesting import read_records
from compiler.bundling.create import CreatedBundle, CreateRequest, create_bundle
from compiler.errors import SourceError
from security.bundle.attestations import PRIVACY_NAME, TRAINING_NAME, privacy_claim
from security.bundle.opening import open_bundle, open_unsigned
from security.bundle.signing import sign_bundle
from security.strictjson import canonical
from tests.compiler.foreign_encoder import foreign_dir
from tests.support.forged_bundles import signing_keys, trusting
from tests.support.privacy_reports import claim_report
from tests.support.tiny_models import tiny_classifier_dir, tiny_onnx

Edit = Callable[[dict[str, Any]], object]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(folder: Path) -> dict[str, Any]:
    """The part of a training.json that compiling looks at, and one value more."""
    weights = {"sha256": sha256(folder / "model.safetensors"), "bytes": 1}
    return {
        "format": "casemate.training/1",
        "files": {"model.safetensors": weights},
        "steps": 7,
    }


def checkpoint(folder: Path, edit: Edit = lambda report: None, **claim: Any) -> Path:
    """A tiny classifier with both records."""
    tiny_classifier_dir(folder)
    training = canonical(record(folder))
    (folder / "training.json").write_bytes(training)

    def bound(report: dict[str, Any]) -> None:
        report["model"]["weights_sha256"] = sha256(folder / "model.safetensors")
        report["model"]["training_sha256"] = hashlib.sha256(training).hexdigest()
        edit(report)

    (folder / "privacy.json").write_bytes(canonical(claim_report(bound, **claim)))
    return folder


def create(source: Path, output: Path, **options: Any) -> CreatedBundle:
    request = CreateRequest(source, output, name="tiny", version="1.0.0", probes=False, **options)
    return create_bundle(request, lambda _: None)


def test_both_records_become_statements_that_hold_after_signing(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "m")
    created = create(source, tmp_path / "b")
    assert created.attestations == (PRIVACY_NAME, TRAINING_NAME)
    sign_bundle(tmp_path / "b", signing_keys())
    with open_bundle(tmp_path / "b", trusting()) as bundle:
        claim = privacy_claim(bundle.files, bundle.manifest)
        model = bundle.files["variants/default/model.onnx"].sha256
        statements = [json.loads(bundle.files[name].read()) for name in created.attestations]
    assert claim is not None
    assert (claim.epsilon, claim.unit, claim.audited) == (3.0, "user", True)
    for statement in statements:
        subject = {"name": "variants/default/model.onnx", "digest": {"sha256": model}}
        assert statement["subject"] == [subject]
    assert statements[0]["predicate"]["report"] == json.loads((source / "privacy.json").read_text())
    assert statements[1]["predicate"]["record"]["steps"] == 7


def test_a_checkpoint_without_a_claim_is_attested_without_one(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "m")
    (source / "privacy.json").unlink()
    assert create(source, tmp_path / "b").attestations == (TRAINING_NAME,)
    with open_unsigned(tmp_path / "b") as bundle:
        assert privacy_claim(bundle.files, bundle.manifest) is None


def test_a_directory_without_records_has_no_attestations(tmp_path: Path) -> None:
    created = create(tiny_classifier_dir(tmp_path / "m"), tmp_path / "b")
    assert (created.attestations, created.left_out) == ((), None)


def _wrong_weights(report: dict[str, Any]) -> None:
    report["model"]["weights_sha256"] = "0" * 64


def _wrong_record(report: dict[str, Any]) -> None:
    report["model"]["training_sha256"] = "0" * 64


def _refuted(report: dict[str, Any]) -> None:
    report["evidence"]["audit"] |= {"lower_bound": 5.0, "ceiling": 9.0}


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (_wrong_weights, "another checkpoint"),
        (_wrong_record, "another checkpoint"),
        (_refuted, "own audit shows more"),
        (lambda report: report.pop("hazards"), "hazards: missing"),
        (lambda report: report["model"].pop("weights_sha256"), "weights_sha256"),
        (lambda report: report["claim"].update(epsilon="3"), "epsilon: must be a number"),
    ],
    ids=["weights", "record", "refuted", "section", "no digest", "type"],
)
def test_a_report_that_does_not_belong_here_is_refused(
    tmp_path: Path, edit: Edit, problem: str
) -> None:
    source = checkpoint(tmp_path / "m", edit)
    with pytest.raises(SourceError, match=problem):
        create(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_report_without_its_training_record_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "m")
    (source / "training.json").unlink()
    with pytest.raises(SourceError, match=r"there is no training\.json beside it"):
        create(source, tmp_path / "b")


@pytest.mark.parametrize("name", ["training.json", "privacy.json"])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data + b"\n", "canonical"),
        (lambda data: data.replace(b'{"', b'{"a":1,"a":2,"', 1), "same key twice"),
        (lambda data: b"[]", "no object"),
        (lambda data: b"", "not JSON"),
        (lambda data: b" " * (18 << 20), "larger than"),
    ],
    ids=["edited", "duplicate", "list", "empty", "huge"],
)
def test_a_record_that_readers_could_read_differently_is_refused(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], problem: str
) -> None:
    source = checkpoint(tmp_path / "m")
    (source / name).write_bytes(change((source / name).read_bytes()))
    with pytest.raises(SourceError, match=problem):
        create(source, tmp_path / "b")


def test_weights_that_were_changed_after_training_have_no_record(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "m")
    tiny_classifier_dir(tmp_path / "other", seed=1)
    (tmp_path / "other/model.safetensors").rename(source / "model.safetensors")
    with pytest.raises(SourceError, match=r"the record of another model\.safetensors"):
        create(source, tmp_path / "b")


def test_weights_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "m")
    records = read_records(source / "model.safetensors")
    assert records is not None
    with (source / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SourceError, match="changed while the bundle was made"):
        records.statements({})


def test_a_claim_is_not_carried_over_to_a_model_that_was_made_elsewhere(tmp_path: Path) -> None:
    source = foreign_dir(tmp_path / "m", "sentence_embedding")
    (source / "privacy.json").write_bytes(canonical(claim_report()))
    created = create(source, tmp_path / "b")
    assert created.attestations == ()
    assert created.left_out is not None
    assert "privacy.json is not carried over" in created.left_out


def test_the_command_says_what_it_carried_over_and_what_not(tmp_path: Path) -> None:
    model = tiny_onnx(tmp_path / "t.onnx")
    (tmp_path / "privacy.json").write_bytes(b"{}")
    arguments = ["bundle", "create", "--name", "t", "--version", "1.0.0", "--no-probes", "--json"]
    result = CliRunner().invoke(cli, [*arguments, str(model), "-o", str(tmp_path / "b")])
    assert result.exception is None, result.output
    assert "is not carried over" in result.stderr
    source = checkpoint(tmp_path / "m")
    result = CliRunner().invoke(cli, [*arguments, str(source), "-o", str(tmp_path / "c")])
    assert json.loads(result.stdout)["attestations"] == [PRIVACY_NAME, TRAINING_NAME]


def test_show_tells_the_claim_and_why_there_is_none(tmp_path: Path) -> None:
    create(checkpoint(tmp_path / "m"), tmp_path / "b")

    def show(*options: str) -> str:
        result = CliRunner().invoke(cli, ["bundle", "show", str(tmp_path / "b"), *options])
        assert result.exception is None, result.output
        return result.stdout

    assert "epsilon 3, delta 1e-05 per user (by the field 'author'), audited" in show()
    # What an audit is worth depends on what it could have shown.
    assert "epsilon is 0.2 at least, and the audit could have shown 3.6 at most" in show()
    assert json.loads(show("--json"))["privacy"]["contributions"] == 4
    statement = tmp_path / "b" / PRIVACY_NAME
    statement.write_bytes(statement.read_bytes().replace(b'"user"', b'"token"'))
    assert "cannot be relied on: attestations/privacy.json" in show()
    statement.unlink()
    assert "no claim" in show()


def compile_with(source: Path, output: Path, *options: str | Path) -> Any:
    words = ["compile", source, "--no-tune", "--no-probes", "-o", output, "--json", *options]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def stated(bundle: Path) -> tuple[Any, Any]:
    """The claim of a bundle, and what its conversion says of the texts."""
    with open_unsigned(bundle) as opened:
        conversion = json.loads(opened.files["attestations/conversion.json"].read())
        return privacy_claim(opened.files, opened.manifest), conversion["predicate"]["texts"]


@pytest.mark.parametrize("option", ["--calibration", "--labelled"])
def test_a_claim_does_not_outlive_texts_that_may_be_private(tmp_path: Path, option: str) -> None:
    """Texts that variants are calibrated or judged on are no post-processing of the weights."""
    source = checkpoint(tmp_path / "m")
    texts = tmp_path / "texts.tsv"
    texts.write_text("".join(f"word {number}\t{number % 2}\n" for number in range(12)))
    made, told = compile_with(source, tmp_path / "b", option, texts)
    claim, said = stated(tmp_path / "b")
    assert claim is None
    assert PRIVACY_NAME not in made["attestations"]
    assert TRAINING_NAME in made["attestations"]
    assert "--public-texts" in made["left_out"]
    assert "is not carried over" in told
    assert said["public"] is False

    made, told = compile_with(source, tmp_path / "p", option, texts, "--public-texts")
    claim, said = stated(tmp_path / "p")
    assert claim is not None
    assert made["left_out"] is None
    assert "not carried over" not in told
    assert (said["public"], said["built_in"]) == (True, False)


def test_a_claim_goes_along_with_built_in_texts(tmp_path: Path) -> None:
    compile_with(checkpoint(tmp_path / "m"), tmp_path / "b")
    claim, said = stated(tmp_path / "b")
    assert claim is not None
    assert (said["public"], said["built_in"]) == (True, True)
