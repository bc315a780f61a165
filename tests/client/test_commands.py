"""The commands, as a person types them, against a real appliance."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from casemate.cli.main import cli
from casemate.cli.templates import client_text
from security.audit.receipt import verify_receipt
from security.errors import BundleError, CasemateError
from security.signing.signers import SigningKeys
from tests.models.memory_host import until
from tests.support.appliance import Running, make_config, started
from tests.support.bundles import SignedBundle, tiny_bundle
from tests.support.trust_domains import TRUST_DOMAIN

PROBE = {
    "id": "p1",
    "kind": "embed",
    "request": {"inputs": ["hello"]},
    "expect": {"embeddings": [[1.0] * 16]},
    "tolerance": {"cosine": -1.0},
}


@dataclass
class Desk:
    """A running appliance and an operator's terminal beside it."""

    site: Running
    folder: Path

    async def run(self, *arguments: str, stdin: str | bytes | None = None) -> Result:
        result: Result = await asyncio.to_thread(
            CliRunner().invoke, cli, list(arguments), input=stdin, catch_exceptions=True
        )
        return result

    async def ask(self, *arguments: str, stdin: str | bytes | None = None) -> Result:
        identity = str(self.folder / "identities" / "operator")
        return await self.run(*arguments, "--identity", identity, stdin=stdin)

    async def operate(self, *arguments: str) -> Result:
        return await self.run(*arguments, "--config", str(self.folder / "casemate.toml"))

    def bundle(self, version: str) -> SignedBundle:
        return operator_bundle(self.folder, version)


def operator_bundle(folder: Path, version: str) -> SignedBundle:
    keys = SigningKeys.load(folder / "signing")
    line = json.dumps(PROBE).encode() + b"\n"
    return tiny_bundle(folder / f"b-{version}", "embed", probes=line, keys=keys, version=version)


def data(result: Result) -> dict[str, object]:
    assert result.exception is None, result.output
    parsed: dict[str, object] = json.loads(result.stdout)
    return parsed


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    folder = tmp_path / "domain"
    async with started(folder, tasks=("generate", "embed", "classify", "tensor")) as site:
        identity = site.identity("operator", "operator")
        (identity / "client.toml").write_text(client_text(site.target, "localhost", TRUST_DOMAIN))
        (identity / "log.vkeys").write_text(site.vkeys())
        yield Desk(site, folder)


async def test_generate_streams_and_saves_its_receipt(desk: Desk, tmp_path: Path) -> None:
    receipt = tmp_path / "answer.receipt"
    result = await desk.ask(
        "generate", "tiny-generate", "The lighthouse", "--receipt", str(receipt)
    )
    assert result.exception is None, result.output
    assert result.stdout == "The lighthouse\n"
    verify_receipt(receipt.read_bytes(), desk.site.vkeys())
    assert receipt.stat().st_mode & 0o777 == 0o600


async def test_generate_reads_stdin_and_prints_json(desk: Desk) -> None:
    result = await desk.ask("generate", "tiny-generate", "-", "--json", stdin="from a pipe")
    found = data(result)
    assert found["text"] == "from a pipe"
    assert found["finish_reason"] == "end"


async def test_chat_once_and_as_a_conversation(desk: Desk) -> None:
    once = await desk.ask("chat", "tiny-generate", "--message", "hi", "--json")
    assert data(once)["text"] == "hi"
    talk = await desk.ask("chat", "tiny-generate", stdin="one\ntwo\n/reset\nthree\n/quit\nfour\n")
    assert talk.stdout.splitlines() == ["one", "oneonetwo", "three"]


async def test_a_model_without_a_template_is_refused_before_the_first_turn(desk: Desk) -> None:
    talk = await desk.ask("chat", "tiny-embed", stdin="never read\n")
    assert talk.exit_code == 1
    assert "casemate generate tiny-embed" in str(talk.exception)
    assert talk.stdout == ""


async def test_a_model_that_is_not_there_is_named(desk: Desk) -> None:
    for command in ("generate", "embed"):
        asked = await desk.ask(command, "nobody", "x")
        assert "no model 'nobody' is served here: 'casemate models'" in str(asked.exception)


async def test_score_embed_classify_infer(desk: Desk) -> None:
    scores = data(await desk.ask("score", "tiny-generate", "a", "b", "--json"))["scores"]
    assert [each["logprob"] for each in scores] == [-1.0, -1.0]  # type: ignore[attr-defined]
    ranked = await desk.ask("embed", "tiny-embed", "a", "bb", "--rank", "c")
    assert ranked.stdout.startswith("SIMILARITY")
    labels = data(await desk.ask("classify", "tiny-classify", "x", "--json"))["classifications"]
    assert labels[0][0]["label"]  # type: ignore[index]
    outputs = data(await desk.ask("infer", "tiny-tensor", "--input", "x:FP32=[1,2,3,4]", "--json"))[
        "outputs"
    ]
    assert outputs[0]["data"] == [1.0, 2.0, 3.0, 4.0]  # type: ignore[index]


async def test_models_and_one_of_them(desk: Desk) -> None:
    listed = await desk.ask("models")
    assert "tiny-embed" in listed.stdout
    shown = data(await desk.ask("models", "show", "tiny-embed", "--json"))
    assert shown["manifest"]["task"] == "embed"  # type: ignore[index]


async def test_known_errors_reach_the_person(desk: Desk) -> None:
    missing = await desk.ask("generate", "nobody", "x")
    assert isinstance(missing.exception, CasemateError)
    assert "no model 'nobody'" in str(missing.exception)
    bad = await desk.ask("infer", "tiny-tensor", "--input", "x=[[1,")
    assert "no JSON" in str(bad.exception)
    nowhere = await desk.ask("models", "--target", "127.0.0.1:1")
    assert "nothing listens on 127.0.0.1:1" in str(nowhere.exception)


async def test_without_an_identity_it_says_what_to_do(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CASEMATE_IDENTITY", raising=False)
    result = await desk.run("models")
    assert "casemate identity issue" in str(result.exception)


async def test_ctrl_c_cancels_the_call_and_exits_with_130(desk: Desk) -> None:
    host = desk.site.hosts["tiny-generate"]
    host.paused = True
    host.submitted.clear()
    command = [sys.executable, "-m", "casemate.cli.main", "generate", "tiny-generate", "x"]
    command += ["--identity", str(desk.folder / "identities" / "operator")]
    child = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        await until(lambda: bool(host.submitted), seconds=30)
        child.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(child.communicate(), 30)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 130
    assert b"Traceback" not in errors
    await until(lambda: bool(host.cancelled))


async def test_install_promote_and_roll_back_on_a_running_appliance(desk: Desk) -> None:
    done = data(await desk.operate("install", str(desk.bundle("1.1.0").path), "--json"))
    assert (done["version"], done["state"], done["probes_passed"]) == ("1.1.0", "live", 1)
    back = data(await desk.operate("rollback", "tiny-embed", "--json"))
    assert (back["version"], back["state"]) == ("1.0.0", "live")
    again = await desk.operate("promote", "tiny-embed", "1.1.0")
    assert "1.1.0 is live after 1 probe passed" in again.stdout
    shown = data(await desk.operate("versions", "tiny-embed", "--json"))
    states = {v["version"]: v["state"] for v in shown["models"][0]["versions"]}  # type: ignore[index]
    assert states == {"1.1.0": "live", "1.0.0": "previous"}
    left = [path.name for path in (desk.folder / "store" / "incoming").iterdir()]
    assert all(len(name) != 16 for name in left)


async def test_a_tampered_bundle_is_refused_by_the_appliance(desk: Desk) -> None:
    bundle = desk.bundle("1.1.0").path
    (bundle / "bundle.json").write_bytes(b"{}")
    result = await desk.operate("install", str(bundle))
    assert "'bundle.json' is not what was signed" in str(result.exception)


def offline(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli, [*arguments, "--config", str(folder / "casemate.toml")], catch_exceptions=True
    )


def test_without_an_appliance_the_store_is_changed_directly(tmp_path: Path) -> None:
    folder = tmp_path / "domain"
    make_config(folder)
    (folder / "trust").mkdir(exist_ok=True)
    done = data(offline(folder, "install", str(operator_bundle(folder, "1.0.0").path), "--json"))
    assert (done["state"], done["reason"]) == ("staged", "waits for the appliance to start")
    shown = data(offline(folder, "versions", "--json"))
    assert shown["running"] is False
    promoted = offline(folder, "promote", "tiny-embed", "1.0.0")
    assert "casemate serve" in str(promoted.exception)
    back = offline(folder, "rollback", "tiny-embed")
    assert "no previous version" in str(back.exception)
    broken = operator_bundle(folder, "1.1.0").path
    shutil.rmtree(broken / "variants")
    assert isinstance(offline(folder, "install", str(broken)).exception, BundleError)


def test_no_configuration_says_so(tmp_path: Path) -> None:
    result = offline(tmp_path, "versions")
    assert "casemate init" in str(result.exception)
