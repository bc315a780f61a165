"""`casemate init`, `identity` and `rotate`, as a person runs them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from casemate.cli import templates
from casemate.cli.main import cli
from runtime.config import load_config
from runtime.filters.rules import RuleSet
from runtime.policy.load import load_policy
from security.audit.note import parse_vkeys
from security.audit.signer import LogSigner
from security.errors import CasemateError, IdentityError, KeyFileError, UsageError
from security.files import create_exclusive
from security.identity.pem import load_certificates
from security.identity.watch import WatchedPeerVerifier
from security.signing.signers import SigningKeys
from tests.support.trust_domains import leaf_pem


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def _json(*arguments: str | Path) -> Any:
    result = _run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _refused(*arguments: str | Path) -> CasemateError:
    result = _run(*arguments)
    assert isinstance(result.exception, CasemateError), result.output
    return result.exception


def _parse(words: list[str]) -> None:
    """Parse a command line as the command would, without running it."""
    assert words[0] == "casemate"
    command: click.Command = cli
    arguments = words[1:]
    while isinstance(command, click.Group):
        context = click.Context(command)
        found = command.get_command(context, arguments[0])
        assert found is not None, arguments[0]
        command, arguments = found, arguments[1:]
    command.make_context(words[1], arguments)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    data = _json(
        "init", folder, "--trust-domain", "plant7.example", "--host", "edge1.plant7.example"
    )
    assert data["folder"] == str(folder)
    return folder


class TestInit:
    def test_what_it_writes_is_what_the_others_read(self, site: Path) -> None:
        config = load_config(site / "casemate.toml")
        for path in (
            config.tls.certificate,
            config.tls.key,
            config.tls.roots,
            config.tls.crl,
            config.log.key,
            config.log.cosigner_key,
            config.policy,
        ):
            assert path.is_file()
        for path in (config.signers, config.store, config.audit):
            assert path.is_dir()
        assert config.tls.trust_domain == "plant7.example"
        signer = LogSigner.load(config.log.origin, config.log.key, config.log.cosigner_key)
        assert parse_vkeys((site / "trust" / "log.vkeys").read_text()) == signer.keys
        assert SigningKeys.load(site / "signing", "release") is not None
        assert {path.name for path in config.signers.iterdir()} == {
            "release.ecdsa.pem",
            "release.mldsa65.pem",
        }
        operator = site / "identities" / "operator"
        verifier = WatchedPeerVerifier(
            "plant7.example", config.tls.roots, config.tls.certificate, config.tls.crl
        )
        assert verifier.verify(leaf_pem(operator)).role == "operator"
        client = tomllib.loads((operator / "client.toml").read_text())
        assert client == {
            "target": "127.0.0.1:8443",
            "server_name": "edge1.plant7.example",
            "trust_domain": "plant7.example",
            "log_vkeys": "log.vkeys",
        }
        assert (operator / "log.vkeys").read_text() == (site / "trust" / "log.vkeys").read_text()

    def test_a_person_is_told_what_to_take_offline_and_what_comes_next(
        self, tmp_path: Path
    ) -> None:
        result = _run("init", tmp_path / "site")
        assert result.exit_code == 0
        assert "authority/root.key  (NOT encrypted, mode 0600)" in result.output
        steps = result.output.split("Next:")[1].strip().splitlines()
        assert len(steps) == 3
        for step in steps:
            _parse(shlex.split(step, comments=True))
        assert "PRIVATE KEY" not in result.output

    def test_a_passphrase_is_used_and_not_shown(self, tmp_path: Path) -> None:
        create_exclusive(tmp_path / "p", b"SENTINEL correct horse\n")
        result = _run("init", tmp_path / "site", "--passphrase-file", tmp_path / "p")
        assert result.exit_code == 0
        assert "SENTINEL" not in result.output
        assert b"ENCRYPTED" in (tmp_path / "site" / "authority" / "root.key").read_bytes()

    def test_a_passphrase_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        create_exclusive(tmp_path / "p", b"correct horse battery", 0o644)
        error = _refused("init", tmp_path / "site", "--passphrase-file", tmp_path / "p")
        assert isinstance(error, KeyFileError)
        assert not (tmp_path / "site").exists()

    def test_a_folder_in_use_is_refused(self, site: Path) -> None:
        assert "not empty" in str(_refused("init", site))

    @pytest.mark.parametrize(
        ("option", "value", "kind"),
        [
            ("--trust-domain", "Plant7", IdentityError),
            ("--trust-domain", "t" * 49, UsageError),
            ("--trust-domain", 'a"\nb', IdentityError),
            ("--host", "not a host", UsageError),
            ("--name", "../up", IdentityError),
        ],
    )
    def test_bad_names_leave_nothing(
        self, tmp_path: Path, option: str, value: str, kind: type[CasemateError]
    ) -> None:
        assert isinstance(_refused("init", tmp_path / "site", option, value), kind)
        assert list(tmp_path.iterdir()) == []

    def test_the_command_exits_with_one_line(self, site: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "casemate.cli.main", "init", str(site)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


class TestPolicyTemplate:
    def test_each_role_reaches_what_it_should_and_nothing_else(self, site: Path) -> None:
        policy = load_policy(site / "policy.toml")
        assert set(policy.roles) == {"device", "operator", "auditor"}
        device = set(policy.roles["device"].methods)
        assert set(policy.roles["operator"].methods) > device - {
            "casemate.v1.ModelService/ListModels",
            "casemate.v1.ModelService/DescribeModel",
        }
        assert "casemate.v1.ModelService/*" in policy.roles["operator"].methods
        assert "casemate.v1.ModelService/*" not in device
        assert not any("TextService" in method for method in policy.roles["auditor"].methods)
        assert all(method != "*" for role in policy.roles.values() for method in role.methods)

    @pytest.mark.parametrize(
        ("text", "out", "verdicts"),
        [
            ("pay 4111 1111 1111 1111 now", "pay [card number] now", ("card-number:redact",)),
            ("5500-0000-0000-0004", "[card number]", ("card-number:redact",)),
            ("378282246310005", "[card number]", ("card-number:redact",)),
            ("call 0123 456789", "call 0123 456789", ()),
            ("4111 1111", "4111 1111", ()),
            ("-----BEGIN PUBLIC KEY-----", "-----BEGIN PUBLIC KEY-----", ()),
        ],
    )
    def test_card_numbers(self, site: Path, text: str, out: str, verdicts: tuple[str, ...]) -> None:
        outcome = RuleSet(load_policy(site / "policy.toml").rules).apply(text)
        assert (outcome.text, outcome.verdicts, outcome.blocked) == (out, verdicts, False)

    @pytest.mark.parametrize("kind", ["", "EC ", "RSA ", "OPENSSH ", "ENCRYPTED "])
    def test_private_keys(self, site: Path, kind: str) -> None:
        text = f"here: -----BEGIN {kind}PRIVATE KEY-----\nMIGH"
        outcome = RuleSet(load_policy(site / "policy.toml").rules).apply(text)
        assert outcome.blocked
        assert outcome.verdicts == ("private-key:block",)


class TestIdentity:
    def test_issue_list_revoke(self, site: Path) -> None:
        issued = _json("identity", "issue", "camera-7", "--domain", site)
        assert issued["spiffe_id"] == "spiffe://plant7.example/device/camera-7"
        assert Path(issued["private_key"]).is_file()
        listed = _json("identity", "list", "--domain", site)["identities"]
        assert [(row["name"], row["state"]) for row in listed] == [
            ("casemate", "active"),
            ("operator", "active"),
            ("camera-7", "active"),
        ]
        revoked = _json("identity", "revoke", "camera-7", "--domain", site)
        assert [row["serial"] for row in revoked["revoked"]] == [issued["serial"]]
        assert len(_json("identity", "list", "--domain", site)["identities"]) == 2
        everything = _json("identity", "list", "--all", "--domain", site)["identities"]
        assert [row["state"] for row in everything] == ["active", "active", "revoked"]
        assert "camera-7" in _run("identity", "list", "--all", "--domain", site).output

    def test_the_folder_comes_from_the_environment_or_from_here(
        self, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CASEMATE_DOMAIN", str(site))
        assert _json("identity", "issue", "a")["name"] == "a"
        monkeypatch.delenv("CASEMATE_DOMAIN")
        monkeypatch.chdir(site)
        assert _json("identity", "issue", "b")["name"] == "b"
        monkeypatch.chdir(site.parent)
        assert "casemate init" in str(_refused("identity", "list"))

    def test_an_active_name_needs_renew(self, site: Path) -> None:
        _json("identity", "issue", "a", "--domain", site)
        error = _refused("identity", "issue", "a", "--domain", site)
        assert "--renew" in str(error)
        again = _json("identity", "issue", "a", "--renew", "--days", "7", "--domain", site)
        assert again["state"] == "active"

    def test_a_role_without_a_policy_is_issued_only_by_force(self, site: Path) -> None:
        error = _refused("identity", "issue", "a", "--role", "robot", "--domain", site)
        assert "no [roles.robot]" in str(error)
        assert "--force" in str(error)
        assert not (site / "identities" / "a").exists()
        result = _run("identity", "issue", "a", "--role", "robot", "--force", "--domain", site)
        assert result.exit_code == 0
        assert "no [roles.robot]" in result.stderr

    def test_a_request_that_is_none(self, site: Path, tmp_path: Path) -> None:
        (tmp_path / "x.csr").write_text("hello")
        error = _refused("identity", "issue", "a", "--csr", tmp_path / "x.csr", "--domain", site)
        assert isinstance(error, IdentityError)
        missing = _refused("identity", "issue", "a", "--csr", tmp_path / "y", "--domain", site)
        assert "cannot read" in str(missing)

    def test_a_client_reaches_an_appliance_that_listens_everywhere_by_its_name(
        self, site: Path
    ) -> None:
        config = site / "casemate.toml"
        config.write_text(config.read_text().replace("127.0.0.1:8443", "0.0.0.0:9000"))
        folder = Path(_json("identity", "issue", "a", "--domain", site)["folder"])
        assert tomllib.loads((folder / "client.toml").read_text())["target"] == (
            "edge1.plant7.example:9000"
        )

    def test_revoking_twice_says_that_nothing_was_revoked(self, site: Path) -> None:
        _json("identity", "issue", "a", "--domain", site)
        assert _json("identity", "revoke", "a", "--domain", site)["revoked"]
        error = _refused("identity", "revoke", "a", "--domain", site)
        assert "was revoked before" in str(error)

    def test_revoke_wants_a_name_or_refresh(self, site: Path) -> None:
        assert _run("identity", "revoke", "--domain", site).exit_code == 2
        assert _run("identity", "revoke", "a", "--refresh", "--domain", site).exit_code == 2
        assert _json("identity", "revoke", "--refresh", "--domain", site)["revoked"] == []
        assert isinstance(_refused("identity", "revoke", "nobody", "--domain", site), UsageError)


class TestRotate:
    def test_server(self, site: Path) -> None:
        before = load_certificates(site / "server" / "server.crt")[0]
        data = _json("rotate", "server", "--domain", site)
        after = load_certificates(site / "server" / "server.crt")[0]
        assert int(data["serial"], 16) == after.serial_number != before.serial_number

    def test_root_with_a_passphrase(self, tmp_path: Path) -> None:
        site, passphrase = tmp_path / "site", tmp_path / "p"
        create_exclusive(passphrase, b"correct horse battery")
        _json("init", site, "--passphrase-file", passphrase)
        assert "--passphrase-file" in str(_refused("rotate", "root", "--domain", site))
        staged = _run("rotate", "root", "--passphrase-file", passphrase, "--domain", site)
        assert staged.exit_code == 0
        assert "operator" in staged.output
        assert "--finish" in staged.output
        assert len(load_certificates(site / "trust" / "roots.pem")) == 2
        assert _json("rotate", "root", "--finish", "--domain", site)["finished"] is True
        assert len(load_certificates(site / "trust" / "roots.pem")) == 1

    def test_issuing(self, site: Path) -> None:
        data = _json("rotate", "issuing", "--domain", site)
        issuing = load_certificates(site / "authority" / "issuing.crt")[0]
        assert int(data["serial"], 16) == issuing.serial_number


@pytest.mark.parametrize(
    "arguments",
    [
        ["init"],
        ["identity"],
        ["identity", "issue"],
        ["identity", "list"],
        ["identity", "revoke"],
        ["rotate"],
        ["rotate", "server"],
        ["rotate", "issuing"],
        ["rotate", "root"],
    ],
    ids=" ".join,
)
def test_every_help_text_teaches_with_an_example(arguments: list[str]) -> None:
    result = _run(*arguments, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert "casemate " + arguments[0] in result.output


def test_texts_quote_what_they_are_given() -> None:
    text = templates.client_text('a"b', "c\\d", "e\tf")
    assert tomllib.loads(text)["target"] == 'a"b'
    assert tomllib.loads(text)["server_name"] == "c\\d"
    assert tomllib.loads(text)["trust_domain"] == "e\tf"
