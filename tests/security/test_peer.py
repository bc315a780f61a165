"""From a certificate to a principal: every refusal by its reason, and the files it follows."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from security.errors import IdentityError
from security.files import write_atomic
from security.identity import peer
from security.identity.authority import create_root
from security.identity.domain import TrustDomain
from security.identity.peer import PeerRefused, PeerVerifier, check_authority
from security.identity.pem import certificates_pem, load_certificates
from security.identity.profile import Lifetimes, utc_now
from security.identity.revocation import RevocationList
from security.identity.rotation import renew_server
from security.identity.watch import WatchedPeerVerifier
from tests.support.trust_domains import (
    DEFECTS,
    TRUST_DOMAIN,
    Shape,
    bit_flips,
    forge,
    leaf_pem,
    make_domain,
    pem_of,
)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    domain = make_domain(tmp_path_factory.mktemp("peer") / "site")
    domain.issue("camera-1", "device")
    return domain


@pytest.fixture(scope="module")
def camera(domain: TrustDomain) -> bytes:
    return leaf_pem(domain.layout.identity("camera-1"))


def _plain(domain: TrustDomain, trust_domain: str = TRUST_DOMAIN) -> PeerVerifier:
    issuing = domain.issuing().certificate
    return PeerVerifier(
        trust_domain,
        load_certificates(domain.layout.roots),
        issuing,
        RevocationList.load(domain.layout.revocations, issuing),
    )


def _watched(domain: TrustDomain) -> WatchedPeerVerifier:
    layout = domain.layout
    return WatchedPeerVerifier(
        domain.name, layout.roots, layout.server_certificate, layout.revocations
    )


def _reason(
    verifier: PeerVerifier | WatchedPeerVerifier, pem: bytes, now: datetime | None = None
) -> str:
    with pytest.raises(PeerRefused) as caught:
        verifier.verify(pem, now)
    return caught.value.reason


def test_a_good_certificate_is_its_principal(domain: TrustDomain, camera: bytes) -> None:
    principal = _plain(domain).verify(camera)
    entry = domain.entries()[-1]
    assert principal.spiffe_id == entry.spiffe_id == f"spiffe://{TRUST_DOMAIN}/device/camera-1"
    assert (principal.trust_domain, principal.role, principal.name) == (
        TRUST_DOMAIN,
        "device",
        "camera-1",
    )
    assert principal.serial == int(entry.serial, 16)
    assert principal.not_after == x509.load_pem_x509_certificate(camera).not_valid_after_utc


def test_the_forger_makes_a_certificate_that_would_pass(domain: TrustDomain) -> None:
    """Without this the defects below could be refused for another reason than their own."""
    assert _plain(domain).verify(forge(domain.issuing(), Shape())).name == "camera-1"


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_refused_for_its_reason(domain: TrustDomain, defect: str) -> None:
    change, reason = DEFECTS[defect]
    pem = forge(domain.issuing(), change(Shape()))
    verifier = _plain(domain)
    assert [_reason(verifier, pem), _reason(verifier, pem)] == [reason, reason]


def test_servers_authorities_and_strangers_are_no_clients(
    domain: TrustDomain, tmp_path: Path
) -> None:
    verifier = _plain(domain)
    layout = domain.layout
    server, issuing = load_certificates(layout.server_certificate)
    assert _reason(verifier, certificates_pem([server])) == "not-a-client"
    assert _reason(verifier, certificates_pem([issuing])) == "issuer"
    assert _reason(verifier, layout.root_certificate.read_bytes()) == "issuer"
    stranger = make_domain(tmp_path / "other")
    assert _reason(verifier, leaf_pem(stranger.layout.identity("operator"))) == "issuer"


def test_the_trust_domain_is_the_configured_one(domain: TrustDomain, camera: bytes) -> None:
    assert _reason(_plain(domain, "plant8.example"), camera) == "trust-domain"


@pytest.mark.parametrize(
    "pem",
    [b"", b"hello", b"x" * 20_000, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"],
    ids=["empty", "text", "oversized", "damaged"],
)
def test_what_is_no_certificate_is_malformed(domain: TrustDomain, pem: bytes) -> None:
    assert _reason(_plain(domain), pem) == "malformed"


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_no_flipped_bit_is_believed(domain: TrustDomain, camera: bytes) -> None:
    verifier = _plain(domain)
    der = x509.load_pem_x509_certificate(camera).public_bytes(Encoding.DER)
    assert verifier.verify(pem_of("CERTIFICATE", der)).name == "camera-1"
    for flipped in bit_flips(der):
        assert _reason(verifier, pem_of("CERTIFICATE", flipped)) in {"issuer", "malformed"}


def test_unused_bits_of_the_signature_are_not_ignored(domain: TrustDomain) -> None:
    """They are outside of what is signed: a second encoding of one certificate."""
    verifier = _plain(domain)
    for _ in range(8):  # the last bit of a signature is 0 in every second certificate
        pem = forge(domain.issuing(), Shape())
        certificate = x509.load_pem_x509_certificate(pem)
        der = bytearray(certificate.public_bytes(Encoding.DER))
        der[-len(certificate.signature) - 1] = 1
        assert _reason(verifier, pem_of("CERTIFICATE", bytes(der))) == "malformed"


def test_validity_is_checked_on_every_call(domain: TrustDomain, camera: bytes) -> None:
    verifier = _plain(domain)
    certificate = x509.load_pem_x509_certificate(camera)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    second = timedelta(seconds=1)
    assert verifier.verify(camera, start).name == "camera-1"
    assert verifier.verify(camera, end).name == "camera-1"
    assert _reason(verifier, camera, start - second) == "not-yet-valid"
    assert _reason(verifier, camera, end + second) == "expired"
    assert verifier.verify(camera).name == "camera-1"


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    """The leaf is still in its time when the issuing CA's two years end."""
    domain = make_domain(tmp_path / "site", now=utc_now() - timedelta(days=729, hours=23))
    verifier, pem = _watched(domain), forge(domain.issuing(), Shape())
    end = domain.issuing().certificate.not_valid_after_utc
    assert x509.load_pem_x509_certificate(pem).not_valid_after_utc > end
    assert verifier.verify(pem, end).name == "camera-1"
    assert _reason(verifier, pem, end + timedelta(seconds=1)) == "authority-not-valid"


def test_a_list_that_ran_out_refuses_everybody(tmp_path: Path) -> None:
    domain = make_domain(tmp_path / "site", now=utc_now() - timedelta(days=100))
    domain.lifetimes = Lifetimes(crl_days=50)
    domain.refresh_revocations(utc_now() - timedelta(days=100))
    pem = leaf_pem(domain.issue("camera-1", "device").folder)
    assert _reason(_watched(domain), pem) == "revocation-list-not-current"


def test_an_authority_that_no_root_signed_is_refused(domain: TrustDomain) -> None:
    now = utc_now()
    root = create_root(TRUST_DOMAIN, Lifetimes(), now).certificate
    issuing = domain.issuing().certificate
    revocations = RevocationList.load(domain.layout.revocations, issuing)
    for roots in ([], [root], [issuing]):
        with pytest.raises(IdentityError, match="no trusted root"):
            PeerVerifier(TRUST_DOMAIN, roots, issuing, revocations)


def test_a_leaf_is_no_authority(domain: TrustDomain, camera: bytes) -> None:
    leaf = x509.load_pem_x509_certificate(camera)
    with pytest.raises(IdentityError, match="is no authority"):
        check_authority(leaf, domain.issuing().certificate)


def test_a_revoked_certificate_is_refused_from_the_next_call_on(tmp_path: Path) -> None:
    domain = make_domain(tmp_path / "site")
    camera = leaf_pem(domain.issue("camera-1", "device").folder)
    pump = leaf_pem(domain.issue("pump-1", "device").folder)
    verifier = _watched(domain)
    assert verifier.verify(camera).name == "camera-1"
    domain.revoke("camera-1")
    assert _reason(verifier, camera) == "revoked"
    assert verifier.verify(pump).name == "pump-1"
    again = leaf_pem(domain.issue("camera-1", "device").folder)
    assert verifier.verify(again).name == "camera-1"
    assert _reason(verifier, camera) == "revoked"


def test_what_is_remembered_is_bounded(
    domain: TrustDomain, camera: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "MAX_REMEMBERED_CERTIFICATES", 3)
    verifier = _plain(domain)
    issuing = domain.issuing()
    for _ in range(6):
        verifier.verify(forge(issuing, Shape()))
    assert len(verifier._remembered) == 3
    assert verifier.verify(camera).name == "camera-1"


def test_a_call_costs_little(domain: TrustDomain, camera: bytes) -> None:
    """Measured: 9 microseconds. The bound leaves room for a loaded machine."""
    verifier = _watched(domain)
    verifier.verify(camera)
    best = min(_seconds(lambda: verifier.verify(camera), 200) for _ in range(5))
    assert best / 200 < 100e-6


def _seconds(call: object, times: int) -> float:
    assert callable(call)
    start = perf_counter()
    for _ in range(times):
        call()
    return perf_counter() - start


class TestWatching:
    @pytest.fixture
    def own(self, tmp_path: Path) -> TrustDomain:
        return make_domain(tmp_path / "site")

    def test_nothing_happens_while_nothing_changes(self, own: TrustDomain) -> None:
        assert not _watched(own).refresh()

    def test_a_new_server_certificate_is_taken(self, own: TrustDomain) -> None:
        verifier = _watched(own)
        renew_server(own)
        assert verifier.refresh()
        assert verifier.verify(leaf_pem(own.layout.identity("operator"))).name == "operator"

    @pytest.mark.parametrize("part", ["roots", "server_certificate", "revocations"])
    @pytest.mark.parametrize("damage", ["emptied", "garbage", "cut", "removed"])
    def test_a_bad_file_leaves_the_last_good_set_in_force(
        self, own: TrustDomain, part: str, damage: str
    ) -> None:
        path: Path = getattr(own.layout, part)
        verifier, operator = _watched(own), leaf_pem(own.layout.identity("operator"))
        good = path.read_bytes()
        bad = {"emptied": b"", "garbage": b"hello", "cut": good[: len(good) // 2]}
        if damage == "removed":
            path.unlink()
        else:
            write_atomic(path, bad[damage])
        assert verifier.verify(operator).name == "operator"
        assert verifier.error is not None
        write_atomic(path, good)
        assert verifier.verify(operator).name == "operator"
        assert verifier.error is None

    def test_an_older_list_put_back_brings_nobody_back(self, own: TrustDomain) -> None:
        camera = leaf_pem(own.issue("camera-1", "device").folder)
        verifier, before = _watched(own), own.layout.revocations.read_bytes()
        own.revoke("camera-1")
        assert _reason(verifier, camera) == "revoked"
        write_atomic(own.layout.revocations, before)
        assert _reason(verifier, camera) == "revoked"
        assert "older" in str(verifier.error)

    def test_the_list_and_the_roots_of_another_authority_are_not_taken(
        self, own: TrustDomain, tmp_path: Path
    ) -> None:
        other = make_domain(tmp_path / "other")
        camera = leaf_pem(own.issue("camera-1", "device").folder)
        own.revoke("camera-1")
        verifier = _watched(own)
        write_atomic(own.layout.revocations, other.layout.revocations.read_bytes())
        assert _reason(verifier, camera) == "revoked"
        write_atomic(own.layout.roots, other.layout.roots.read_bytes())
        stranger = leaf_pem(other.layout.identity("operator"))
        assert _reason(verifier, stranger) == "issuer"
        assert verifier.error is not None

    def test_a_chain_without_the_issuing_authority_is_refused(self, own: TrustDomain) -> None:
        path = own.layout.server_certificate
        write_atomic(path, certificates_pem(load_certificates(path)[:1]))
        with pytest.raises(IdentityError, match="lacks the issuing authority"):
            _watched(own)
