"""The privacy claim at an operator's terminal: shown where it is made, asked for by a rule."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from click.testing import CliRunner, Result

from casemate.cli.main import cli
from casemate.cli.templates import POLICY, client_text
from security.bundle.signing import sign_bundle
from security.errors import CasemateError
from security.signing.signers import SigningKeys
from tests.client.test_commands import operator_bundle
from tests.support.appliance import make_config, started
from tests.support.privacy_reports import attest, claim_report
from tests.support.trust_domains import TRUST_DOMAIN

RULE = """
[[admission]]
unit = "user"
max_epsilon = 8.0
max_delta = 1e-5
audited = true
"""


def private_bundle(folder: Path, version: str, epsilon: float) -> Path:
    """A signed bundle with a claim."""
    path = operator_bundle(folder, version).path
    attest(path, claim_report(epsilon=epsilon))
    sign_bundle(path, SigningKeys.load(folder / "signing"))
    return path


async def run(*arguments: str) -> Result:
    result: Result = await asyncio.to_thread(CliRunner().invoke, cli, list(arguments))
    return result


async def test_a_running_appliance_tells_why_it_refuses_and_shows_what_it_takes(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "domain"
    config = ("--config", str(folder / "casemate.toml"))
    async with started(folder, tasks=(), policy=POLICY + RULE) as site:
        identity = site.identity("operator", "operator")
        (identity / "client.toml").write_text(client_text(site.target, "localhost", TRUST_DOMAIN))
        (identity / "log.vkeys").write_text(site.vkeys())
        bare = await run("install", str(operator_bundle(folder, "0.9.0").path), *config)
        assert "it carries no privacy claim (attestations/privacy.json)" in str(bare.exception)
        loose = await run("install", str(private_bundle(folder, "1.0.0", 9.0)), *config)
        assert "does not admit tiny-embed 1.0.0: its epsilon is 9, above 8" in str(loose.exception)
        taken = await run("install", str(private_bundle(folder, "1.1.0", 3.0)), *config)
        assert taken.exception is None, taken.output

        me = ("--identity", str(identity))
        listed = await run("models", *me)
        assert "ε 3, user, audited" in listed.stdout
        shown = await run("models", "show", "tiny-embed", *me)
        assert "per user (by the field 'author', at most 4 of their records)" in shown.stdout
        assert "epsilon 0.2 at least, and could have shown 3.6 at most" in shown.stdout
        assert "contradicted" not in shown.stdout
        data = json.loads((await run("models", "show", "tiny-embed", "--json", *me)).stdout)
        assert data["versions"][0]["privacy"]["epsilon"] == 3.0

        # An audit that could not have shown what is claimed is no evidence for it.
        weak = await run("install", str(private_bundle(folder, "1.2.0", 5.0)), *config)
        assert weak.exception is None, weak.output
        assert "ε 5, user\n" in (await run("models", *me)).stdout.replace("  ", "\n")
        shown = await run("models", "show", "tiny-embed", *me)
        assert "so it could not have contradicted the claim" in shown.stdout

        # A stricter policy that is read again stops the model; the next call says why.
        (folder / "policy.toml").write_text(POLICY + RULE.replace("8.0", "1.0"))
        site.appliance.reload_policy()
        refused = await run("embed", "tiny-embed", "hello", *me)
        assert isinstance(refused.exception, CasemateError)
        assert "its epsilon is 5, above 1" in str(refused.exception)


def test_a_bundle_for_an_appliance_that_does_not_run_is_judged_too(tmp_path: Path) -> None:
    folder = tmp_path / "domain"
    make_config(folder, policy=POLICY + RULE)
    (folder / "trust").mkdir(exist_ok=True)
    config = ("--config", str(folder / "casemate.toml"))

    def install(bundle: Path) -> Result:
        return CliRunner().invoke(cli, ["install", str(bundle), *config, "--json"])

    refused = install(operator_bundle(folder, "1.0.0").path)
    assert "it carries no privacy claim" in str(refused.exception)
    empty = CliRunner().invoke(cli, ["versions", "--json", *config])
    assert json.loads(empty.stdout)["models"] == []
    assert install(private_bundle(folder, "1.1.0", 3.0)).exception is None
    (folder / "policy.toml").write_text("version = 1\n[[admission]]\nunits = 3\n")
    unread = install(private_bundle(folder, "1.2.0", 3.0))
    assert "admission[0] has no key 'units'" in str(unread.exception)
