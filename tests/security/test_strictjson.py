"""Strict JSON: what one reader could take differently from another is refused."""

from __future__ import annotations

import json
import time

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from security.strictjson import MAX_SAFE_INTEGER, StrictJsonError, canonical, parse

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    # Larger whole floats have a canonical form, but one that reads as an unsafe integer.
    | st.floats(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(_values)
def test_canonical_values_survive_the_round_trip(value: object) -> None:
    data = canonical(value)  # type: ignore[arg-type]
    again = parse(data, max_bytes=1 << 20, max_depth=32)
    assert canonical(again) == data  # type: ignore[arg-type]
    assert json.loads(data) == again


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        value = parse(data, max_bytes=200)
    except StrictJsonError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"{'a':1}",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":1,"\\u0061":2}',
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"9007199254740992",
        b"-9007199254740992",
        b"1" * 33,
        b"1" * 5_000,
        b"0." + b"1" * 40,
        b"01",
        b"\xef\xbb\xbf1",
        b"\xff",
        '"é"'.encode("latin-1"),
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b'"\x00"',
        b'"a\nb"',
        b"[1] [2]",
        "[1]".encode("utf-16"),
        b"[" * 17 + b"]" * 17,
        b'{"a":' * 17 + b"1" + b"}" * 17,
    ],
)
def test_what_readers_could_differ_on_is_refused(data: bytes) -> None:
    with pytest.raises(StrictJsonError):
        parse(data, max_bytes=1 << 20)


def test_brackets_inside_strings_do_not_count_as_nesting() -> None:
    assert parse(b'["' + b"[" * 100 + b'\\"[{"]', max_bytes=1_000) == ["[" * 100 + '"[{']


def test_size_and_depth_limits_are_inclusive() -> None:
    assert parse(b"[[1]]", max_bytes=5, max_depth=2) == [[1]]
    with pytest.raises(StrictJsonError, match="limit of 4"):
        parse(b"[[1]]", max_bytes=4)
    with pytest.raises(StrictJsonError, match="deeper than 1"):
        parse(b"[[1]]", max_bytes=5, max_depth=1)


@pytest.mark.parametrize(
    "data",
    [b'"' + b'\\"' * 400_000, b'"' * 800_001, b"\\" * 800_000, b'"\\', b"[" * 800_000],
)
def test_hostile_text_costs_little(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(StrictJsonError):
        parse(data, max_bytes=1 << 20)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800"])
def test_what_has_no_canonical_encoding_is_refused(value: object) -> None:
    with pytest.raises(StrictJsonError):
        canonical(value)  # type: ignore[arg-type]


def test_canonical_is_rfc_8785() -> None:
    # RFC 8785 section 3.2.2, figure 1.
    value = {"numbers": [333333333.33333329, 1e30, 4.5, 2e-3, 1e-27], "literals": [None, True]}
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]
    assert b"[333333333.3333333,1e+30,4.5,0.002,1e-27]" in canonical(value)  # type: ignore[arg-type]
