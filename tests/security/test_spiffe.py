"""SPIFFE ids: the specification's rules, one by one, and a round trip for all else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import IdentityError
from security.identity.spiffe import SpiffeId, check_name, check_role, check_trust_domain

GOOD = [
    "spiffe://example.internal/device/camera-7",
    "spiffe://example.internal",
    "spiffe://a/b",
    "spiffe://1.2.3.4/service",
    "spiffe://under_score.-dash/UPPER/lower/1.2-3_4",
    "spiffe://trustdomain/...",
    "spiffe://trustdomain/.hidden",
    f"spiffe://{'t' * 255}/x",
    f"spiffe://t/{'x' * (2048 - 11)}",
]

BAD = {
    "empty": "",
    "scheme-only": "spiffe://",
    "other-scheme": "https://example.internal/device/a",
    "upper-case-scheme": "SPIFFE://example.internal/device/a",
    "one-slash": "spiffe:/example.internal/device/a",
    "upper-case-trust-domain": "spiffe://Example.internal/device/a",
    "no-trust-domain": "spiffe:///device/a",
    "port": "spiffe://example.internal:8443/device/a",
    "user-info": "spiffe://root@example.internal/device/a",
    "query": "spiffe://example.internal/device/a?x=1",
    "query-without-path": "spiffe://example.internal?x=1",
    "fragment": "spiffe://example.internal/device/a#x",
    "percent-encoding": "spiffe://example.internal/device/%61",
    "percent-in-trust-domain": "spiffe://example%2einternal/device/a",
    "trailing-slash": "spiffe://example.internal/device/",
    "slash-alone": "spiffe://example.internal/",
    "empty-segment": "spiffe://example.internal/device//a",
    "dot-segment": "spiffe://example.internal/./a",
    "dot-dot-segment": "spiffe://example.internal/device/../operator/a",
    "space": "spiffe://example.internal/device/a b",
    "line-end": "spiffe://example.internal/device/a\n",
    "nul": "spiffe://example.internal/device/a\0",
    "backslash": "spiffe://example.internal/device\\a",
    "unicode-letter": "spiffe://example.internal/device/\u0430",
    "unicode-digit": "spiffe://example.internal/device/\u0661",
    "unicode-trust-domain": "spiffe://ex\u00e4mple.internal/device/a",
    "long-trust-domain": f"spiffe://{'t' * 256}/x",
    "long-id": f"spiffe://t/{'x' * (2048 - 10)}",
}


@pytest.mark.parametrize("text", GOOD)
def test_allowed_ids_come_back_unchanged(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize("name", BAD)
def test_what_the_specification_forbids_is_refused(name: str) -> None:
    with pytest.raises(IdentityError):
        SpiffeId.parse(BAD[name])


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_refused_or_comes_back_unchanged(tail: str) -> None:
    for text in (tail, f"spiffe://{tail}", f"spiffe://td/{tail}"):
        try:
            parsed = SpiffeId.parse(text)
        except IdentityError:
            continue
        assert str(parsed) == text
        assert text.isascii()


NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
ROLES = st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True)


@settings(deadline=None)
@given(ROLES, NAMES)
def test_role_and_name_come_back(role: str, name: str) -> None:
    text = str(SpiffeId.of("plant7.example", role, name))
    assert SpiffeId.parse(text).role_and_name() == (role, name)


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://t",
        "spiffe://t/device",
        "spiffe://t/device/a/b",
        "spiffe://t/Device/a",
        "spiffe://t/device/A",
        "spiffe://t/device/.a",
        f"spiffe://t/device/{'a' * 64}",
        f"spiffe://t/{'d' * 33}/a",
    ],
)
def test_only_role_and_name_have_a_role_and_a_name(text: str) -> None:
    with pytest.raises(IdentityError, match="ROLE/NAME"):
        SpiffeId.parse(text).role_and_name()


@pytest.mark.parametrize("name", ["", "-a", ".a", "_a", "A", "a/b", "..", "a b", "a" * 64, "ä"])
def test_bad_names(name: str) -> None:
    with pytest.raises(IdentityError, match="a name starts with"):
        check_name(name)


@pytest.mark.parametrize("role", ["", "A", "a_b", "a.b", "a/b", "a" * 33, "röle", "a\n"])
def test_bad_roles(role: str) -> None:
    with pytest.raises(IdentityError, match="a role has"):
        check_role(role)


@pytest.mark.parametrize("text", ["", "A", "a b", "a/b", "a:1", "t" * 256, "a\n"])
def test_bad_trust_domains(text: str) -> None:
    with pytest.raises(IdentityError, match="a trust domain name"):
        check_trust_domain(text)


def test_a_message_shows_hostile_text_bounded_and_escaped() -> None:
    with pytest.raises(IdentityError) as caught:
        SpiffeId.parse("spiffe://td/\x1b[31m" + "x" * 1000)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400
