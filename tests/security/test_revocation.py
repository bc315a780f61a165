"""Revocation lists: made, verified, and every way one is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import IdentityError, SecurityError, UsageError
from security.files import write_atomic
from security.identity.authority import CertifiedKey, create_issuing, create_root
from security.identity.domain import TrustDomain
from security.identity.ledger import Ledger
from security.identity.profile import Lifetimes, utc_now
from security.identity.revocation import RevocationList, create_revocation_list
from tests.support.trust_domains import TRUST_DOMAIN, bit_flips, make_domain, pem_of

LIFETIMES = Lifetimes()


def _authority() -> CertifiedKey:
    now = utc_now()
    return create_issuing(create_root(TRUST_DOMAIN, LIFETIMES, now), TRUST_DOMAIN, LIFETIMES, now)


ISSUING, OTHER = _authority(), _authority()


def _list(*serials: int, number: int = 1, now: datetime | None = None) -> bytes:
    now = now or utc_now()
    return create_revocation_list(ISSUING, dict.fromkeys(serials, now), number, LIFETIMES, now)


def _builder() -> x509.CertificateRevocationListBuilder:
    now = utc_now()
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ISSUING.certificate.subject)
        .last_update(now - timedelta(minutes=1))
        .next_update(now + timedelta(days=1))
    )


def _signed(builder: x509.CertificateRevocationListBuilder) -> bytes:
    return builder.sign(ISSUING.key, SHA256()).public_bytes(Encoding.PEM)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(1, (1 << 159) - 1), max_size=30), st.integers(1, 1 << 60))
def test_it_holds_exactly_what_was_revoked(serials: set[int], number: int) -> None:
    revocations = RevocationList.parse(_list(*serials, number=number), ISSUING.certificate)
    assert revocations.serials == serials
    assert revocations.number == number
    assert all(revocations.is_revoked(serial) for serial in serials)
    assert not revocations.is_revoked(1 << 160)


def test_it_counts_for_its_time_and_no_longer() -> None:
    now = utc_now()
    revocations = RevocationList.parse(_list(now=now), ISSUING.certificate)
    assert revocations.is_current(now)
    assert not revocations.is_current(now - timedelta(minutes=6))
    assert revocations.is_current(now + timedelta(days=3650))
    assert not revocations.is_current(now + timedelta(days=3650, seconds=1))


def test_loading_refuses_a_list_that_ran_out(tmp_path: Path) -> None:
    path = tmp_path / "l"
    write_atomic(path, _list(now=utc_now() - timedelta(days=3651)))
    with pytest.raises(IdentityError, match="--refresh"):
        RevocationList.load(path, ISSUING.certificate)
    write_atomic(path, _list(7))
    assert RevocationList.load(path, ISSUING.certificate).is_revoked(7)
    with pytest.raises(SecurityError, match="cannot read"):
        RevocationList.load(tmp_path / "absent", ISSUING.certificate)


def test_another_authority_of_the_same_name_is_refused() -> None:
    assert OTHER.certificate.subject == ISSUING.certificate.subject
    with pytest.raises(IdentityError, match="not signed by this authority"):
        RevocationList.parse(_list(), OTHER.certificate)


def test_another_name_is_refused() -> None:
    now = utc_now()
    elsewhere = create_issuing(create_root("td", LIFETIMES, now), "td", LIFETIMES, now)
    with pytest.raises(IdentityError, match="of another authority"):
        RevocationList.parse(_list(), elsewhere.certificate)


def test_no_flipped_bit_is_believed() -> None:
    der = x509.load_pem_x509_crl(_list(5, 6)).public_bytes(Encoding.DER)
    assert RevocationList.parse(pem_of("X509 CRL", der), ISSUING.certificate).serials == {5, 6}
    for flipped in bit_flips(der):
        with pytest.raises(IdentityError):
            RevocationList.parse(pem_of("X509 CRL", flipped), ISSUING.certificate)


BAD = {
    "empty": b"",
    "text": b"hello",
    "label-only": b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n",
    "cut": _list()[:200],
    "no-number": _signed(_builder()),
    "delta": _signed(
        _builder()
        .add_extension(x509.CRLNumber(2), critical=False)
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
    ),
    "indirect": _signed(
        _builder()
        .add_extension(x509.CRLNumber(2), critical=False)
        .add_extension(
            x509.IssuingDistributionPoint(
                full_name=None,
                relative_name=None,
                only_contains_user_certs=False,
                only_contains_ca_certs=False,
                only_some_reasons=None,
                indirect_crl=True,
                only_contains_attribute_certs=False,
            ),
            critical=True,
        )
    ),
    "a-certificate": ISSUING.certificate.public_bytes(Encoding.PEM),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_lists_are_refused(name: str) -> None:
    with pytest.raises(IdentityError):
        RevocationList.parse(BAD[name], ISSUING.certificate)


class TestRevoking:
    @pytest.fixture
    def domain(self, tmp_path: Path) -> TrustDomain:
        return make_domain(tmp_path / "site")

    def _current(self, domain: TrustDomain) -> RevocationList:
        return RevocationList.load(domain.layout.revocations, domain.issuing().certificate)

    def test_the_list_grows_and_so_does_its_number(self, domain: TrustDomain) -> None:
        numbers, serials = [self._current(domain).number], set()
        for name in ("a", "b", "c"):
            serials.add(int(domain.issue(name, "device").entry.serial, 16))
            assert len(domain.revoke(name).entries) == 1
            now = self._current(domain)
            assert now.serials == serials
            numbers.append(now.number)
        assert numbers == sorted(set(numbers))

    def test_revoking_again_rewrites_the_list_and_is_no_error(self, domain: TrustDomain) -> None:
        domain.issue("a", "device")
        domain.revoke("a")
        number = self._current(domain).number
        domain.layout.revocations.write_bytes(b"damaged")
        again = domain.revoke("a")
        assert again.entries == ()
        assert again.total == 1
        assert self._current(domain).serials == {
            int(entry.serial, 16) for entry in domain.entries() if entry.name == "a"
        }
        assert self._current(domain).number >= number

    def test_a_crash_between_ledger_and_list_is_mended_by_the_same_command(
        self, domain: TrustDomain
    ) -> None:
        entry = domain.issue("a", "device").entry
        Ledger(domain.layout.ledger).append(entry.revoked(utc_now()))
        assert not self._current(domain).serials
        domain.revoke("a")
        assert self._current(domain).is_revoked(int(entry.serial, 16))

    def test_a_name_that_was_never_issued(self, domain: TrustDomain) -> None:
        with pytest.raises(UsageError, match="no active certificate"):
            domain.revoke("nobody")
        with pytest.raises(UsageError, match="no active certificate"):
            domain.revoke("casemate")  # the appliance itself: rotate its certificate instead

    def test_a_refreshed_list_counts_from_now_on(self, tmp_path: Path) -> None:
        domain = make_domain(tmp_path / "old", now=utc_now() - timedelta(days=3651))
        with pytest.raises(IdentityError, match="not current"):
            self._current(domain)
        domain.refresh_revocations()
        assert self._current(domain).is_current()
