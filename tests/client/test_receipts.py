"""A receipt must be of this very call: every way in which it can be of another is refused."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.client.errors import ReceiptError
from casemate.client.exchange import Exchange, Trailer, about_inference, contradiction
from casemate.client.identity import load_identity
from casemate.client.receipts import ReceiptKeeper
from casemate.client.types import Answered
from casemate.pb.inference import inference_pb2
from security.audit.commitment import ANSWER_DOMAIN, REQUEST_DOMAIN, commit, new_key
from security.audit.entry import AuditEntry
from security.audit.log import AuditLog
from security.audit.receipt import build
from security.errors import IdentityError
from tests.audit.support import SIGNER, VKEYS
from tests.support.trust_domains import TRUST_DOMAIN, make_domain

CALLER = f"spiffe://{TRUST_DOMAIN}/device/camera-1"
REQUEST_ID = "ab" * 16
DIGEST = "0123456789abcdef" * 4
ENTRY = AuditEntry(
    kind="completed",
    time_ms=1_700_000_000_000,
    request_id=REQUEST_ID,
    principal=CALLER,
    role="device",
    method="casemate.v1.TextService/Score",
    model="gemma",
    version="1.0.0",
    bundle_digest=DIGEST,
    status="OK",
)
EXCHANGE = Exchange(
    "/casemate.v1.TextService/Score",
    "gemma",
    "",
    Answered("gemma", "1.0.0", DIGEST, REQUEST_ID, None),
    Trailer(REQUEST_ID, None),
    (b"asked",),
    (b"answered",),
)
ENTRIES_OF_OTHERS = {
    "kind": replace(ENTRY, kind="denied"),
    "status": replace(ENTRY, status="CANCELLED"),
    "request id": replace(ENTRY, request_id="cd" * 16),
    "method": replace(ENTRY, method="casemate.v1.TextService/Embed"),
    "principal": replace(ENTRY, principal=CALLER + "0"),
    "model": replace(ENTRY, model="other"),
    "version": replace(ENTRY, version="0.9.0"),
    "bundle digest": replace(ENTRY, bundle_digest="f" * 64),
}
ANSWERS_OF_OTHERS = {
    "request id": replace(EXCHANGE.answered, request_id="cd" * 16),
    "model": replace(EXCHANGE.answered, model="other"),
    "version": replace(EXCHANGE.answered, version="0.9.0"),
    "bundle digest": replace(EXCHANGE.answered, bundle_digest=""),
}


def test_a_record_of_the_call_agrees() -> None:
    assert contradiction(ENTRY, EXCHANGE, CALLER) == ""
    assert contradiction(ENTRY, replace(EXCHANGE, version="1.0.0"), CALLER) == ""


@pytest.mark.parametrize("name", ANSWERS_OF_OTHERS)
def test_an_answer_that_says_something_else_is_named(name: str) -> None:
    other = replace(EXCHANGE, answered=ANSWERS_OF_OTHERS[name])
    assert contradiction(ENTRY, other, CALLER) == name


def test_the_version_and_model_that_were_asked_for_count() -> None:
    assert contradiction(ENTRY, replace(EXCHANGE, version="2.0.0"), CALLER) == "version"
    assert contradiction(ENTRY, replace(EXCHANGE, model="other"), CALLER) == "model"
    nobody = replace(ENTRY, bundle_digest="")
    unsaid = replace(EXCHANGE, answered=replace(EXCHANGE.answered, bundle_digest=""))
    assert contradiction(nobody, unsaid, CALLER) == "bundle digest"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditLog]:
    with AuditLog.open(tmp_path_factory.mktemp("log"), SIGNER) as opened:
        yield opened


def receipt_of(log: AuditLog, entry: AuditEntry) -> bytes:
    """Append an entry that commits to EXCHANGE, and return its genuine receipt."""
    key = new_key()
    data = replace(
        entry,
        request_commitment=commit(key, REQUEST_DOMAIN, EXCHANGE.request_parts).hex(),
        answer_commitment=commit(key, ANSWER_DOMAIN, EXCHANGE.answer_parts).hex(),
    ).encode()
    index = log.append(data).result(10)
    return build(data, key, log.receipt_for(index).result(10))


def keeper_of(sink: Path) -> ReceiptKeeper:
    return ReceiptKeeper(vkeys=VKEYS, principal=CALLER, sink=sink, held=None)


def with_receipt(data: bytes) -> Exchange:
    return replace(EXCHANGE, trailer=Trailer(REQUEST_ID, data))


@pytest.mark.parametrize("name", ENTRIES_OF_OTHERS)
def test_a_genuine_receipt_of_another_call_is_refused(
    name: str, log: AuditLog, tmp_path: Path
) -> None:
    data = receipt_of(log, ENTRIES_OF_OTHERS[name])
    with pytest.raises(ReceiptError, match=f"its {name} is another"):
        keeper_of(tmp_path).accept(with_receipt(data))
    assert list(tmp_path.iterdir()) == []


def test_a_saved_receipt_is_its_owners_alone(log: AuditLog, tmp_path: Path) -> None:
    data = receipt_of(log, ENTRY)
    folder = tmp_path / "receipts"
    keeper_of(folder).accept(with_receipt(data))
    saved = folder / f"{REQUEST_ID}.json"
    assert saved.read_bytes() == data
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_inference_says_what_answered_in_its_parameters() -> None:
    response = inference_pb2.ModelInferResponse(model_name="digits", model_version="1.0.0")
    response.parameters["casemate_bundle_digest"].string_param = DIGEST
    response.parameters["casemate_request_id"].string_param = REQUEST_ID
    about = about_inference(response, Trailer("", None))
    assert about == Answered("digits", "1.0.0", DIGEST, REQUEST_ID, None)


def test_the_identity_knows_its_own_name(tmp_path: Path) -> None:
    domain = make_domain(tmp_path / "domain")
    domain.issue("camera-1", "device")
    folder = domain.layout.identity("camera-1")
    (folder / "client.toml").write_text('target = "a:1"\nserver_name = "a"\n')
    assert load_identity(folder).principal() == CALLER
    (folder / "client.crt").write_text("nothing")
    with pytest.raises(IdentityError, match=r"client\.crt"):
        load_identity(folder).principal()
