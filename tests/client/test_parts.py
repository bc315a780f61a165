"""The client's pure parts: retries, error details, tensors, identity folders."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message as ProtoMessage
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from casemate.client.errors import ConnectionFailed, TooBusy, Unavailable
from casemate.client.identity import load_identity
from casemate.client.retry import NOT_STARTED, RetryPolicy
from casemate.client.status import Details, parse_details
from casemate.client.tensors import FORMATS, Tensor, guess_datatype
from security.errors import IdentityError, KeyFileError, UsageError

POLICY = RetryPolicy(attempts=4, initial_delay_seconds=0.1, max_delay_seconds=5.0)
GONE = Unavailable("gone", code="UNAVAILABLE", reason="WORKER_GONE", retry_after_seconds=0.2)


def delay(error: Exception, **changes: object) -> float | None:
    given_: dict[str, object] = {
        "attempt": 1,
        "idempotent": True,
        "answer_began": False,
        "remaining_seconds": 60.0,
        "chance": 0.5,
    }
    return POLICY.delay_after(error, **(given_ | changes))  # type: ignore[arg-type]


def test_an_idempotent_call_waits_as_long_as_it_was_told() -> None:
    assert delay(GONE) == 0.2


def test_a_generation_is_repeated_only_when_it_never_began() -> None:
    assert delay(GONE, idempotent=False) is None
    for reason in NOT_STARTED:
        refused = Unavailable("x", code="UNAVAILABLE", reason=reason)
        assert delay(refused, idempotent=False) is not None


def test_never_after_a_part_of_the_answer_came() -> None:
    assert delay(GONE, answer_began=True) is None


def test_never_beyond_the_attempts_the_deadline_or_the_longest_pause() -> None:
    assert delay(GONE, attempt=4) is None
    assert delay(GONE, remaining_seconds=0.1) is None
    slow = Unavailable("x", code="UNAVAILABLE", retry_after_seconds=60.0)
    assert delay(slow) is None


def test_not_when_nothing_listens_or_a_limit_does_not_lift() -> None:
    assert delay(ConnectionFailed("x", code="UNAVAILABLE")) is None
    assert delay(TooBusy("x", code="RESOURCE_EXHAUSTED")) is None


@given(st.integers(1, 3), st.floats(0, 1, exclude_max=True))
def test_back_off_grows_and_stays_bounded(attempt: int, chance: float) -> None:
    found = delay(Unavailable("x", code="UNAVAILABLE"), attempt=attempt, chance=chance)
    assert found is not None
    whole = 0.1 * 2 ** (attempt - 1)
    assert whole / 2 <= found <= whole <= POLICY.max_delay_seconds


def packed(*details: ProtoMessage) -> bytes:
    status = status_pb2.Status(code=3, message="public")
    for detail in details:
        item = any_pb2.Any()
        item.Pack(detail)
        status.details.append(item)
    return bytes(status.SerializeToString())


def test_details_are_read_as_google_writes_them() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    violation = error_details_pb2.BadRequest.FieldViolation(field="top_p", description="d")
    data = packed(
        error_details_pb2.ErrorInfo(reason="WHY", domain="casemate", metadata={"a": "b"}),
        retry,
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.DebugInfo(detail="ignored"),
    )
    assert parse_details(data) == Details("WHY", "top_p", 1.5)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader_of_details(data: bytes) -> None:
    assert isinstance(parse_details(data), Details)


@given(st.sampled_from(sorted(FORMATS)), st.lists(st.integers(0, 1), max_size=12))
def test_tensors_survive_the_wire(datatype: str, values: list[int]) -> None:
    data = [bool(value) for value in values] if datatype == "BOOL" else values
    tensor = Tensor("x", datatype, (len(data),), data)
    again = Tensor.from_bytes("x", datatype, (len(data),), tensor.to_bytes())
    assert list(again.data) == data


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_byte_tensors_survive_the_wire(values: list[bytes]) -> None:
    raw = Tensor("x", "BYTES", (len(values),), values).to_bytes()
    assert list(Tensor.from_bytes("x", "BYTES", (len(values),), raw).data) == values


def test_nested_lists_have_a_shape() -> None:
    tensor = Tensor.from_nested("x", "FP32", [[1, 2, 3], [4, 5, 6]])
    assert tensor.shape == (2, 3)
    assert tensor.to_bytes() == struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    assert tensor.nested() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("nested", "datatype"),
    [([[1, 2], [3]], "FP32"), ([[1], 2], "FP32"), ([1, [2]], "FP32"), (["a"], "FP32")],
    ids=["ragged", "depth-down", "depth-up", "text-as-number"],
)
def test_bad_tensors_are_refused(nested: object, datatype: str) -> None:
    with pytest.raises(UsageError, match="tensor x"):
        Tensor.from_nested("x", datatype, nested).to_bytes()


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", (2,), b"\0" * 4),
        ("FP32", (-1,), b""),
        ("FP31", (1,), b"\0" * 4),
        ("BYTES", (1,), b"\x05\0\0\0ab"),
        ("BYTES", (2,), b"\0\0\0\0"),
        ("BYTES", (1,), b"\0\0"),
    ],
    ids=["short", "negative", "unknown-type", "cut-off", "too-few", "cut-length"],
)
def test_bad_blocks_are_refused(datatype: str, shape: tuple[int, ...], raw: bytes) -> None:
    with pytest.raises(UsageError, match="tensor x"):
        Tensor.from_bytes("x", datatype, shape, raw)


def test_data_types_are_guessed_from_json() -> None:
    assert [guess_datatype(v) for v in ([[1]], [0.5], ["a"], [True])] == [
        "INT64",
        "FP32",
        "BYTES",
        "BOOL",
    ]
    assert math.isclose(Tensor.from_nested("x", "FP32", 0.5).nested(), 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("client.crt", "roots.pem"):
        (tmp_path / name).write_text("pem")
    (tmp_path / "client.toml").write_text('target = "a:1"\nserver_name = "a"\n')
    (tmp_path / "client.key").write_text("SECRET")
    (tmp_path / "client.key").chmod(0o600)
    return tmp_path


def test_an_identity_is_read_and_its_key_is_not_shown(folder: Path) -> None:
    identity = load_identity(folder)
    assert (identity.target, identity.log_vkeys) == ("a:1", None)
    assert "SECRET" not in repr(identity)


@pytest.mark.parametrize("name", ["client.toml", "client.key", "client.crt", "roots.pem"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(IdentityError, match=name):
        load_identity(folder)


def test_a_key_that_others_may_read_is_refused(folder: Path) -> None:
    (folder / "client.key").chmod(0o644)
    with pytest.raises(KeyFileError):
        load_identity(folder)


@pytest.mark.parametrize(
    "text", ["target = 1\nserver_name = 'a'", "target = 'a:1'", "targe = 'a'", "= ="]
)
def test_a_malformed_client_toml_is_refused(folder: Path, text: str) -> None:
    (folder / "client.toml").write_text(text)
    with pytest.raises(IdentityError, match=r"client\.toml"):
        load_identity(folder)


def test_no_folder_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="casemate identity issue"):
        load_identity(tmp_path / "none")
