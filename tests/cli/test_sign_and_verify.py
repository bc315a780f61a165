"""`casemate sign`, `casemate verify` and what `casemate bundle show` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from casemate.cli import sign, verify
from casemate.cli.bundle_show import describe, render
from security.bundle.content import Step
from security.bundle.opening import open_bundle, open_unsigned
from security.errors import BundleError, KeyFileError
from security.keys import public_pem, save_private_key
from tests.support.forged_bundles import (
    NOW,
    make_bundle,
    make_signed,
    signing_keys,
    trusting,
    write,
)


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    """The two folders of a trust domain that signing and verifying need."""
    keys = signing_keys()
    (tmp_path / "signing").mkdir()
    (tmp_path / "signers").mkdir()
    for suffix, key in (("ecdsa", keys.ecdsa), ("mldsa65", keys.mldsa65)):
        save_private_key(tmp_path / "signing" / f"release.{suffix}.key", key)
        public = tmp_path / "signers" / f"release.{suffix}.pem"
        public.write_bytes(public_pem(key))
        public.chmod(0o644)
    return tmp_path


def _sign(path: Path, domain: Path, *options: str) -> Result:
    arguments = [str(path), "--keys", str(domain / "signing"), *options]
    return CliRunner().invoke(sign.command, arguments)


def _verify(path: Path, domain: Path, *options: str) -> Result:
    arguments = [str(path), "--signers", str(domain / "signers"), *options]
    return CliRunner().invoke(verify.command, arguments)


def test_sign_then_verify(domain: Path) -> None:
    path = make_bundle(domain / "bundle")
    signed = _sign(path, domain)
    assert signed.exit_code == 0, signed.output
    assert "signed tiny 1.0.0 as release" in signed.output
    assert f"casemate verify {path} --signers {domain}/trust/signers" in signed.output
    verified = _verify(path, domain)
    assert verified.exit_code == 0, verified.output
    assert verified.output.count("ok ") == len(Step)
    assert "REFUSED" not in verified.output


def test_in_the_domains_folder_nothing_needs_to_be_named(
    domain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(domain / "bundle")
    monkeypatch.chdir(domain)
    signed = CliRunner().invoke(sign.command, ["bundle"])
    assert signed.stdout.endswith("Check it with: casemate verify bundle\n")


def test_signing_warns_when_no_appliance_could_install_it(domain: Path) -> None:
    path = make_bundle(domain / "bundle")
    assert "probes.jsonl" not in _sign(path, domain).stderr
    (path / "probes.jsonl").unlink()
    assert "no probes.jsonl" in _sign(path, domain).stderr


def test_json_of_both_agrees(domain: Path) -> None:
    path = make_bundle(domain / "bundle")
    signed = json.loads(_sign(path, domain, "--json").stdout)
    verified = json.loads(_verify(path, domain, "--json").stdout)
    assert verified["accepted"] is True
    assert verified["digest"] == signed["digest"]
    assert len(verified["files"]) == signed["files"] == 3
    assert {check["result"] for check in verified["checks"]} == {"passed"}


def test_a_refused_bundle_exits_with_one_and_says_where_and_why(domain: Path) -> None:
    path = make_signed(domain / "bundle")
    write(path, "probes.jsonl", b"{}\n")
    shown = _verify(path, domain)
    assert shown.exit_code == 1
    assert "REFUSED  every file has its signed digest" in shown.output
    assert "refused (digest-mismatch): 'probes.jsonl'" in shown.output
    result = _verify(path, domain, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["accepted"], document["reason"]) == (False, "digest-mismatch")
    outcomes = [check["result"] for check in document["checks"]]
    failed = list(Step).index(Step.DIGESTS)
    assert outcomes[:failed] == ["passed"] * failed
    assert outcomes[failed:] == ["failed"] + ["not reached"] * (len(Step) - failed - 1)


def test_an_epoch_below_the_floor_is_refused(domain: Path) -> None:
    path = make_signed(domain / "bundle")
    assert _verify(path, domain, "--minimum-epoch", "1").exit_code == 0
    document = json.loads(_verify(path, domain, "--minimum-epoch", "2", "--json").stdout)
    assert document["reason"] == "rollback"


def test_known_failures_are_left_to_the_entry_point(domain: Path) -> None:
    path = make_bundle(domain / "bundle")
    write(path, "notes.txt", b"x")
    assert isinstance(_sign(path, domain).exception, BundleError)
    assert isinstance(_sign(path, domain, "--name", "nobody").exception, KeyFileError)
    assert isinstance(_verify(path, domain / "nowhere").exception, KeyFileError)


def test_show_describes_a_bundle_in_json_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_signed(tmp_path / "bundle", license="Gemma Terms\x1b[2J\nmore")
    with open_bundle(path, trusting(), now=NOW) as bundle:
        data = describe(bundle)
    assert json.loads(json.dumps(data)) == data
    assert data["signer"] == "release"
    assert data["models"]["default"]["architecture"] == "llama"
    assert data["files"][0]["name"] == "bundle.json"
    render(data)
    shown = capsys.readouterr().out
    assert "tiny 1.0.0, task generate" in shown
    assert "\x1b" not in shown


def test_show_does_not_call_an_unverified_bundle_signed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_unsigned(make_signed(tmp_path / "bundle")) as bundle:
        render(describe(bundle))
    assert "signatures not verified" in capsys.readouterr().out
