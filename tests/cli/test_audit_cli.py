"""`casemate audit` and `casemate receipt`, as a person calls them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from casemate.cli import audit, receipt
from casemate.cli.audit_folder import parse_since
from security.audit.commitment import ANSWER_DOMAIN, REQUEST_DOMAIN, commit
from security.audit.config import LogConfig
from security.audit.entry import AuditEntry
from security.audit.log import AuditLog
from security.audit.note import parse_vkeys
from security.audit.proof import parse_proof
from security.audit.receipt import build
from security.errors import AuditError, UsageError
from tests.audit.support import ORIGIN, SIGNER, VKEYS, make_signer

KEY = bytes(32)
PROMPT = "How many windows has a casemate?\n"
ANSWER = "Few, and each of them is watched."
NOW_MS = 1_800_000_000_000
COMPLETED = AuditEntry(
    kind="completed",
    time_ms=NOW_MS,
    principal="spiffe://example.internal/device/a",
    method="casemate.v1.TextService/Generate",
    model="gemma",
    version="1.0.0",
    status="OK",
    prompt_tokens=5,
    completion_tokens=7,
    request_commitment=commit(KEY, REQUEST_DOMAIN, [PROMPT.encode()]).hex(),
    answer_commitment=commit(KEY, ANSWER_DOMAIN, [ANSWER.encode()]).hex(),
)


def entries() -> list[AuditEntry]:
    many = [
        AuditEntry(
            kind="admitted" if number % 3 else "denied",
            time_ms=NOW_MS - 1_000_000 + number,
            principal=f"spiffe://example.internal/device/{'ab'[number % 2]}",
            model="gemma" if number % 5 else "minilm",
            status="OK" if number % 3 else "PERMISSION_DENIED",
        )
        for number in range(280)
    ]
    return [
        *many,
        COMPLETED,
        AuditEntry(kind="operation", time_ms=NOW_MS + 1, detail="install gemma\x1b[31m 1.0.0"),
    ]


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trust domain's folder with a log, its keys, a receipt and a held checkpoint."""
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust/log.vkeys").write_text(VKEYS)
    with AuditLog.open(tmp_path / "audit", SIGNER, config=LogConfig()) as log:
        first = [log.append(entry.encode()) for entry in entries()[:100]]
        assert [future.result(60) for future in first] == list(range(100))
        (tmp_path / "held").write_bytes(log.checkpoint())
        rest = [log.append(entry.encode()) for entry in entries()[100:]]
        assert [future.result(60) for future in rest] == list(range(100, 282))
        proof = log.receipt_for(280).result(60)
    (tmp_path / "answer.receipt").write_bytes(build(COMPLETED.encode(), KEY, proof))
    (tmp_path / "prompt.txt").write_text(PROMPT)
    (tmp_path / "answer.txt").write_text(ANSWER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def done(command: click.Command, *arguments: str) -> str:
    result = ask(command, *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def refused(command: click.Command, *arguments: str) -> str:
    result = ask(command, *arguments)
    assert isinstance(result.exception, AuditError | UsageError), result
    return str(result.exception)


def damage(path: Path, position: int = 50) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_verify_says_what_holds(domain: Path) -> None:
    text = done(audit.command, "verify")
    assert f"ok: 282 entries of {ORIGIN}" in text
    assert "Ed25519" in text
    assert "ML-DSA-44" in text
    assert "not checked: whether the log was cut" in text


@pytest.mark.parametrize("held", ["held", "answer.receipt", "proof"])
def test_verify_against_something_held(held: str, domain: Path) -> None:
    done(audit.command, "prove", "3", "-o", "proof")
    data = json.loads(done(audit.command, "verify", "audit", "--held", held, "--json"))
    assert data["ok"] is True
    assert data["entries"] == 282
    assert data["held_size"] == (100 if held == "held" else 282)
    assert data["signed_at"] == "2023-11-14T22:13:20Z"


def test_verify_names_the_first_finding_and_exits_1(domain: Path) -> None:
    damage(domain / "audit/tile/entries/000")
    assert "entry 0" in refused(audit.command, "verify")
    root = Path(__file__).parents[2]
    real = subprocess.run(
        [sys.executable, "-m", "casemate.cli.main", "audit", "verify"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert real.returncode == 1
    assert real.stderr.startswith("error: entry 0")
    assert real.stdout == ""


def test_verify_refuses_a_cut_log(domain: Path) -> None:
    with AuditLog.open(domain / "short", SIGNER) as log:
        log.append(entries()[0].encode()).result(60)
    assert "was cut" in refused(audit.command, "verify", "short", "--held", "held")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "nowhere"), "missing"),
        (("show", "nowhere"), "not an audit log"),
        (("verify", "--vkeys", "nowhere"), "no such file"),
        (("verify", "--held", "nowhere"), "no such file"),
        (("verify", "--held", "prompt.txt"), "not acceptable"),
        (("verify", "--vkeys", "prompt.txt"), "not of the form"),
        (("prove", "282"), "no entry 282"),
        (("prove", "1", "-o", "no/such/folder"), "cannot write"),
        (("show", "--vkeys", "other"), "lacks its"),
    ],
)
def test_clear_refusals(arguments: tuple[str, ...], message: str, domain: Path) -> None:
    others = make_signer().keys
    (domain / "other").write_text("".join(f"{key.line()}\n" for key in others))
    assert message in refused(audit.command, *arguments)


def lines(*arguments: str) -> list[dict[str, object]]:
    return [
        json.loads(line) for line in done(audit.command, "show", "--json", *arguments).splitlines()
    ]


def test_show_filters(domain: Path) -> None:
    assert [line["index"] for line in lines("--limit", "3")] == [279, 280, 281]
    assert len(lines("--limit", "1000")) == 282
    denied = lines("--kind", "denied", "--principal", "device/a", "--limit", "1000")
    assert [line["index"] for line in denied] == list(range(0, 280, 6))
    assert {line["model"] for line in lines("--model", "minilm")} == {"minilm"}
    recent = lines("--since", datetime.fromtimestamp(NOW_MS / 1000, UTC).isoformat())
    assert [line["index"] for line in recent] == [280, 281]
    assert lines("--principal", "nobody") == []


def test_show_as_a_table(domain: Path) -> None:
    text = done(audit.command, "show", "--limit", "2")
    assert text.splitlines()[0].split() == [
        "INDEX",
        "TIME",
        "KIND",
        "STATUS",
        "PRINCIPAL",
        "MODEL",
        "DETAIL",
    ]
    assert "gemma@1.0.0" in text
    assert "5+7 tokens" in text
    assert "2027-01-15T08:00:00Z" in text
    assert "\x1b" not in text


def test_prove_writes_a_proof_that_verifies(domain: Path) -> None:
    proof = parse_proof(done(audit.command, "prove", "280"))
    verified = proof.verify(COMPLETED.encode(), parse_vkeys(VKEYS))
    assert verified.checkpoint.size == 282


def test_prove_refuses_a_damaged_folder(domain: Path) -> None:
    damage(domain / "audit/tile/0/000")
    assert "does not lead to the root" in refused(audit.command, "prove", "3")


def test_since() -> None:
    now = datetime(2026, 11, 23, 8, tzinfo=UTC)
    hour = 3_600_000
    base = int(now.timestamp() * 1000)
    assert parse_since("2h", now) == base - 2 * hour
    assert parse_since("90s", now) == base - 90_000
    assert parse_since("2026-11-23T07:00", now) == base - hour
    assert parse_since("2026-11-23T09:00+02:00", now) == base - hour
    for bad in ("", "h", "-1h", "yesterday", "99999999999d", "²h"):
        with pytest.raises(click.BadParameter):
            parse_since(bad, now)


def test_follow_prints_old_and_new_entries(domain: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "casemate.cli.main", "audit", "follow", "-n", "1", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        bufsize=0,
    )
    guard = threading.Timer(60, child.kill)
    guard.start()
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        assert json.loads(child.stdout.readline())["index"] == 281
        with AuditLog.open(domain / "audit", SIGNER) as log:
            log.append(entries()[0].encode()).result(60)
        assert json.loads(child.stdout.readline())["index"] == 282
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        assert child.stderr.read() == b""
    finally:
        guard.cancel()
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


RECEIPT = ("verify", "answer.receipt", "--vkeys", "trust/log.vkeys")


def test_receipt_says_what_is_proven_and_what_is_not(domain: Path) -> None:
    text = done(receipt.command, *RECEIPT)
    assert f"ok: entry 280 of the log {ORIGIN}" in text
    assert "what was asked (give --prompt-file)" in text
    assert "the entry is the appliance's word" in text
    assert "exactly this prompt" not in text


def test_receipt_with_everything(domain: Path) -> None:
    more = ("--prompt-file", "prompt.txt", "--answer-file", "answer.txt", "--audit", "audit")
    text = done(receipt.command, *RECEIPT, *more)
    for words in ("exactly this prompt", "exactly this answer", "still holds the entry and"):
        assert words in text
    assert "what was asked" not in text
    data = json.loads(done(receipt.command, *RECEIPT, "--prompt", PROMPT, "--json"))
    assert data["request_checked"] is True
    assert data["answer_checked"] is False
    assert data["entry"]["model"] == "gemma"
    assert PROMPT.strip() not in json.dumps(data)


def test_a_newline_that_a_shell_added_does_not_make_it_another_answer(domain: Path) -> None:
    (domain / "redirected.txt").write_text(ANSWER + "\n")
    assert "exactly this answer" in done(
        receipt.command, *RECEIPT, "--answer-file", "redirected.txt"
    )
    for changed in (ANSWER + "\n\n", ANSWER + " ", "\n" + ANSWER):
        (domain / "changed.txt").write_text(changed)
        text = refused(receipt.command, *RECEIPT, "--answer-file", "changed.txt")
        assert "not about this answer" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("audit", "verify", "--held", "answer.receipt"),
        ("receipt", *RECEIPT, "--audit", "audit"),
    ],
    ids=["audit", "receipt"],
)
def test_a_log_that_is_about_to_publish_is_not_called_cut(
    domain: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt is given before the checkpoint that covers it is published."""
    published = (domain / "audit/checkpoint").read_bytes()
    (domain / "audit/checkpoint").write_bytes((domain / "held").read_bytes())
    waits: list[float] = []

    def publish_at_the_second_look(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            (domain / "audit/checkpoint").write_bytes(published)

    monkeypatch.setattr("casemate.cli.audit_folder.time.sleep", publish_at_the_second_look)
    command = {"audit": audit.command, "receipt": receipt.command}[arguments[0]]
    done(command, *arguments[1:])
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "another"), "not about this prompt"),
        (("--prompt-file", "answer.txt"), "not about this prompt"),
        (("--answer-file", "prompt.txt"), "not about this answer"),
        (("--prompt", "a", "--prompt-file", "prompt.txt"), "not both"),
        (("--answer-file", "nowhere"), "no such file"),
        (("--audit", "nowhere"), "not an audit log"),
    ],
)
def test_receipt_refusals(arguments: tuple[str, ...], message: str, domain: Path) -> None:
    text = refused(receipt.command, *RECEIPT, *arguments)
    assert message in text
    assert ANSWER not in text
    assert PROMPT.strip() not in text


def test_receipt_against_a_log_that_was_rewritten_or_cut(domain: Path) -> None:
    other = entries()
    other[5] = AuditEntry(kind="denied", time_ms=1)
    for name, content, message in (
        ("rewritten", other, "rewritten"),
        ("cut", other[:9], "was cut"),
    ):
        with AuditLog.open(domain / name, SIGNER) as log:
            for entry in content:
                log.append(entry.encode())
        assert message in refused(receipt.command, *RECEIPT, "--audit", name)


def test_a_damaged_receipt_is_refused(domain: Path) -> None:
    for position in range(0, 3000, 97):
        damage(domain / "answer.receipt", position)
        refused(receipt.command, *RECEIPT)
        damage(domain / "answer.receipt", position)
    done(receipt.command, *RECEIPT)


@pytest.mark.parametrize("command", [audit.command, receipt.command])
def test_help_teaches_by_example(command: click.Group) -> None:
    assert "casemate " in done(command, "--help")
    for name in command.commands:
        assert f"casemate {'audit' if command is audit.command else 'receipt'} {name}" in done(
            command, name, "--help"
        )
