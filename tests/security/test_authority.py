"""Certificates, the ledger, and a trust domain's folder: made, issued, revoked, rotated."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from security.errors import IdentityError, KeyFileError, UsageError
from security.files import sync_tree, write_atomic
from security.identity import rotation
from security.identity.authority import (
    CertifiedKey,
    create_issuing,
    create_root,
    general_name,
    issue_client,
    issue_server,
    public_key_of_request,
    trust_domain_of,
)
from security.identity.creation import Plan, create_trust_domain
from security.identity.domain import TrustDomain, server_hosts
from security.identity.ledger import Ledger, LedgerEntry
from security.identity.pem import certificates_pem, load_certificates, parse_certificates
from security.identity.profile import Lifetimes, new_serial, serial_hex, utc_now
from security.identity.rotation import finish_root, renew_issuing, renew_server, stage_root
from security.identity.spiffe import SpiffeId
from security.identity.watch import WatchedPeerVerifier
from security.keys import Algorithm, generate, load_private_key
from tests.support.trust_domains import (
    TRUST_DOMAIN,
    bit_flips,
    device_id,
    leaf_pem,
    make_domain,
    pem_of,
)

LIFETIMES = Lifetimes()
PASSPHRASE = b"correct horse battery"


@pytest.fixture(scope="module")
def issuing() -> CertifiedKey:
    now = utc_now()
    return create_issuing(create_root(TRUST_DOMAIN, LIFETIMES, now), TRUST_DOMAIN, LIFETIMES, now)


@pytest.fixture
def domain(tmp_path: Path) -> TrustDomain:
    return make_domain(tmp_path / "site")


def _request(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *extensions: x509.ExtensionType
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


class TestCertificates:
    def test_the_authority_is_as_documented(self, domain: TrustDomain) -> None:
        root = load_certificates(domain.layout.root_certificate)[0]
        issuing = load_certificates(domain.layout.issuing_certificate)[0]
        for certificate, curve, path_length, days in (
            (root, ec.SECP384R1, 1, 3650),
            (issuing, ec.SECP256R1, 0, 730),
        ):
            key = certificate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            assert isinstance(key.curve, curve)
            extensions = certificate.extensions
            constraints = extensions.get_extension_for_class(x509.BasicConstraints)
            assert constraints.critical
            assert (constraints.value.ca, constraints.value.path_length) == (True, path_length)
            usage = extensions.get_extension_for_class(x509.KeyUsage)
            assert usage.critical
            assert usage.value.key_cert_sign
            assert usage.value.crl_sign
            assert not usage.value.digital_signature
            assert trust_domain_of(certificate) == TRUST_DOMAIN
            lived = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            assert lived <= timedelta(days=days, minutes=5)
        issuing.verify_directly_issued_by(root)
        root.verify_directly_issued_by(root)

    def test_a_client_certificate_is_as_documented(self, issuing: CertifiedKey) -> None:
        now, key = utc_now(), generate(Algorithm.ECDSA_P256)
        certificate = issue_client(
            issuing, device_id(), key.public_key(), lifetimes=LIFETIMES, now=now
        )
        assert certificate.not_valid_before_utc == max(
            now - timedelta(minutes=5), issuing.certificate.not_valid_before_utc
        )
        assert certificate.not_valid_after_utc == now + timedelta(days=90)
        assert _uris(certificate) == [f"spiffe://{TRUST_DOMAIN}/device/camera-1"]
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca

    def test_a_server_certificate_names_its_hosts(self, issuing: CertifiedKey) -> None:
        spiffe_id = SpiffeId.of(TRUST_DOMAIN, "appliance", "edge")
        hosts = ["localhost", "127.0.0.1", "::1", "edge1.plant7.example"]
        key, now = generate(Algorithm.ECDSA_P256).public_key(), utc_now()
        certificate = issue_server(issuing, spiffe_id, hosts, key, lifetimes=LIFETIMES, now=now)
        assert server_hosts(certificate) == [
            "localhost",
            "edge1.plant7.example",
            "127.0.0.1",
            "::1",
        ]
        assert _uris(certificate) == [str(spiffe_id)]
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
        assert certificate.not_valid_after_utc == now + timedelta(days=397)

    @pytest.mark.parametrize(
        "host", ["", "A.example", "a_b", "a..b", "-a", "a-", "*.example", "a b", "1.2.3", "a" * 64]
    )
    def test_bad_hosts(self, host: str) -> None:
        with pytest.raises(UsageError, match="neither an IP address nor"):
            general_name(host)

    def test_roles_of_servers_and_clients_do_not_mix(self, issuing: CertifiedKey) -> None:
        key, now = generate(Algorithm.ECDSA_P256).public_key(), utc_now()
        appliance = SpiffeId.of(TRUST_DOMAIN, "appliance", "edge")
        with pytest.raises(IdentityError, match="is for servers"):
            issue_client(issuing, appliance, key, lifetimes=LIFETIMES, now=now)
        with pytest.raises(IdentityError, match="is no appliance"):
            issue_server(issuing, device_id(), ["localhost"], key, lifetimes=LIFETIMES, now=now)

    def test_nothing_outlives_its_issuer(self) -> None:
        now, short = utc_now(), Lifetimes(issuing_days=30)
        issuing = create_issuing(create_root("td", LIFETIMES, now), "td", short, now)
        key = generate(Algorithm.ECDSA_P256).public_key()
        spiffe_id = SpiffeId.of("td", "device", "a")
        certificate = issue_client(issuing, spiffe_id, key, lifetimes=LIFETIMES, now=now)
        assert certificate.not_valid_after_utc == issuing.certificate.not_valid_after_utc
        later = now + timedelta(days=31)
        with pytest.raises(IdentityError, match="has expired: renew it"):
            issue_client(issuing, spiffe_id, key, lifetimes=LIFETIMES, now=later)

    def test_serial_numbers_are_positive_random_and_fit(self) -> None:
        serials = {new_serial() for _ in range(2000)}
        assert len(serials) == 2000
        assert all(0 < serial < 1 << 159 for serial in serials)
        assert max(serials) > 1 << 157
        assert all(len(serial_hex(serial)) == 40 for serial in serials)

    def test_a_key_that_is_not_the_certificates_is_refused(self, issuing: CertifiedKey) -> None:
        with pytest.raises(IdentityError, match="does not belong"):
            CertifiedKey(generate(Algorithm.ECDSA_P256), issuing.certificate)
        assert "key" not in repr(issuing)

    @pytest.mark.parametrize("field", ["root_days", "client_days", "crl_days"])
    @pytest.mark.parametrize("days", [0, -1, 36_501])
    def test_lifetimes_are_checked(self, field: str, days: int) -> None:
        with pytest.raises(UsageError, match=field):
            Lifetimes(**{field: days})


class TestRequest:
    def test_only_the_key_is_taken_from_it(self, domain: TrustDomain) -> None:
        key = generate(Algorithm.ECDSA_P384)
        request = _request(
            key,
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/operator/operator")]
            ),
            x509.BasicConstraints(ca=True, path_length=None),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        )
        issued = domain.issue("pump-3", "device", request=request)
        certificate = load_certificates(issued.folder / "client.crt")[0]
        assert certificate.public_key() == key.public_key()
        assert _uris(certificate) == [f"spiffe://{TRUST_DOMAIN}/device/pump-3"]
        assert b"operator" not in certificate.tbs_certificate_bytes
        assert "CN=root" not in certificate.subject.rfc4514_string()
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        assert not (issued.folder / "client.key").exists()

    def test_without_proof_of_the_key_it_is_refused(self) -> None:
        key = generate(Algorithm.ECDSA_P256)
        request = x509.load_pem_x509_csr(_request(key))
        der = bytearray(request.public_bytes(Encoding.DER))
        # Another public key in the same request: the signature no longer fits.
        mine = request.public_key()
        other = generate(Algorithm.ECDSA_P256).public_key()
        assert isinstance(mine, ec.EllipticCurvePublicKey)
        points = [
            f"{point.public_numbers().x:064x}{point.public_numbers().y:064x}"
            for point in (mine, other)
        ]
        forged = bytes(der).replace(bytes.fromhex(points[0]), bytes.fromhex(points[1]))
        assert forged != bytes(der)
        pem = x509.load_der_x509_csr(forged).public_bytes(Encoding.PEM)
        with pytest.raises(IdentityError, match="no proof of the key"):
            public_key_of_request(pem)

    def test_no_flipped_bit_is_taken_for_a_proof(self) -> None:
        der = x509.load_pem_x509_csr(_request(generate(Algorithm.ECDSA_P256))).public_bytes(
            Encoding.DER
        )
        assert public_key_of_request(pem_of("CERTIFICATE REQUEST", der))
        for flipped in bit_flips(der):
            with pytest.raises(IdentityError):
                public_key_of_request(pem_of("CERTIFICATE REQUEST", flipped))

    @pytest.mark.parametrize(
        ("request_of", "message"),
        [
            (lambda: b"", "no certificate signing request"),
            (lambda: b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", "no certificate signing"),
            (lambda: b"x" * 20_000, "at most 16384 bytes"),
            (lambda: _request(rsa.generate_private_key(65537, 2048)), "not ECDSA"),
            (lambda: _request(ec.generate_private_key(ec.SECP521R1())), "not ECDSA"),
        ],
        ids=["empty", "damaged", "oversized", "rsa", "p521"],
    )
    def test_bad_requests(self, request_of: Callable[[], bytes], message: str) -> None:
        with pytest.raises(IdentityError, match=message):
            public_key_of_request(request_of())

    def test_a_refused_request_leaves_no_trace(self, domain: TrustDomain) -> None:
        before = domain.layout.ledger.read_bytes()
        with pytest.raises(IdentityError):
            domain.issue("pump-3", "device", request=b"")
        assert domain.layout.ledger.read_bytes() == before
        assert [folder.name for folder in domain.layout.identities.iterdir()] == ["operator"]


class TestCreation:
    def test_every_private_key_is_private(self, domain: TrustDomain) -> None:
        keys = list(domain.layout.folder.rglob("*.key"))
        assert len(keys) == 8
        for path in keys:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for path in domain.layout.folder.rglob("*"):
            if path.is_file() and path not in keys:
                assert b"PRIVATE KEY" not in path.read_bytes()

    def test_a_passphrase_encrypts_the_root_key(self, tmp_path: Path) -> None:
        layout = make_domain(tmp_path / "site", passphrase=PASSPHRASE).layout
        assert b"ENCRYPTED" in layout.root_key.read_bytes()
        load_private_key(layout.root_key, Algorithm.ECDSA_P384, PASSPHRASE)

    def test_an_empty_folder_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "site").mkdir()
        assert make_domain(tmp_path / "site").name == TRUST_DOMAIN

    def test_a_folder_that_is_not_empty_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "notes").write_text("mine")
        with pytest.raises(UsageError, match="not empty"):
            make_domain(tmp_path / "site")
        assert [path.name for path in tmp_path.rglob("*")] == ["site", "notes"]

    def test_a_file_or_a_link_in_its_place_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        for name in ("file", "link"):
            with pytest.raises(UsageError, match="is no folder"):
                make_domain(tmp_path / name)
        with pytest.raises(UsageError, match="does not exist"):
            make_domain(tmp_path / "absent" / "site")

    def test_a_failure_half_way_leaves_nothing(self, tmp_path: Path) -> None:
        plan = Plan(TRUST_DOMAIN, "casemate", ("not a host",), "origin/log")
        with pytest.raises(UsageError, match="not a host"):
            create_trust_domain(tmp_path / "site", plan)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_filled_meanwhile_is_not_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fill(folder: Path) -> None:
            sync_tree(folder)
            (tmp_path / "site").mkdir()
            (tmp_path / "site" / "notes").write_text("mine")

        monkeypatch.setattr("security.identity.creation.sync_tree", fill)
        with pytest.raises(UsageError, match="not an empty folder any more"):
            make_domain(tmp_path / "site")
        assert [path.name for path in tmp_path.rglob("*")] == ["site", "notes"]

    def test_a_folder_without_an_authority_is_no_trust_domain(self, tmp_path: Path) -> None:
        with pytest.raises(IdentityError, match="casemate init"):
            TrustDomain(tmp_path)


class TestIssue:
    def test_the_folder_holds_what_the_client_needs(self, domain: TrustDomain) -> None:
        issued = domain.issue("camera-1", "device", extra_files={"log.vkeys": b"keys"})
        names = {path.name for path in issued.folder.iterdir()}
        assert names == {"client.key", "client.crt", "roots.pem", "log.vkeys"}
        leaf, ca = load_certificates(issued.folder / "client.crt")
        leaf.verify_directly_issued_by(ca)
        key = load_private_key(issued.folder / "client.key", Algorithm.ECDSA_P256)
        assert key.public_key() == leaf.public_key()

    def test_an_active_name_is_refused_even_in_another_role(self, domain: TrustDomain) -> None:
        domain.issue("camera-1", "device")
        for role in ("device", "auditor"):
            with pytest.raises(IdentityError, match=r"device/camera-1 is active until .* --renew"):
                domain.issue("camera-1", role)

    def test_a_name_is_free_again_after_revocation_or_expiry(self, domain: TrustDomain) -> None:
        first = domain.issue("camera-1", "device").entry
        domain.revoke("camera-1")
        second = domain.issue("camera-1", "auditor", days=1).entry
        later = utc_now() + timedelta(days=2)
        third = domain.issue("camera-1", "device", now=later).entry
        assert len({first.serial, second.serial, third.serial}) == 3
        assert load_certificates(domain.layout.identity("camera-1") / "client.crt")[
            0
        ].serial_number == int(third.serial, 16)

    def test_renewing_leaves_the_old_certificate_in_force(self, domain: TrustDomain) -> None:
        old = domain.issue("camera-1", "device")
        old_pem = leaf_pem(old.folder)
        new = domain.issue("camera-1", "device", renew=True)
        verifier = _verifier(domain)
        assert verifier.verify(old_pem).serial == int(old.entry.serial, 16)
        assert verifier.verify(leaf_pem(new.folder)).serial == int(new.entry.serial, 16)
        assert len(domain.revoke("camera-1").entries) == 2

    @pytest.mark.parametrize(
        ("name", "role"),
        [("../up", "device"), (".hidden", "device"), ("A", "device"), ("a", "Device"), ("", "x")],
    )
    def test_bad_names_and_roles(self, domain: TrustDomain, name: str, role: str) -> None:
        with pytest.raises(IdentityError):
            domain.issue(name, role)

    @pytest.mark.parametrize("days", [0, -1, 731])
    def test_bad_lifetimes(self, domain: TrustDomain, days: int) -> None:
        with pytest.raises(UsageError, match="1 to 730 days"):
            domain.issue("camera-1", "device", days=days)

    def test_the_appliances_role_is_reserved(self, domain: TrustDomain) -> None:
        with pytest.raises(IdentityError, match="is for servers"):
            domain.issue("edge", "appliance")

    def test_a_failure_after_the_ledger_leaves_a_known_certificate_and_no_folder(
        self, domain: TrustDomain
    ) -> None:
        with pytest.raises(FileExistsError):
            domain.issue("camera-1", "device", extra_files={"client.crt": b"in the way"})
        assert [entry.name for entry in domain.entries()] == ["casemate", "operator", "camera-1"]
        assert [folder.name for folder in domain.layout.identities.iterdir()] == ["operator"]
        assert len(domain.revoke("camera-1").entries) == 1


DAMAGED_LINES: dict[str, Callable[[dict[str, object]], object]] = {
    "missing-key": lambda entry: {k: v for k, v in entry.items() if k != "serial"},
    "unknown-key": lambda entry: {**entry, "note": "x"},
    "serial-not-hex": lambda entry: {**entry, "serial": "g" * 40},
    "serial-too-short": lambda entry: {**entry, "serial": "ab"},
    "serial-a-number": lambda entry: {**entry, "serial": 7},
    "time-malformed": lambda entry: {**entry, "not_after": "tomorrow"},
    "revoked-at-malformed": lambda entry: {**entry, "revoked_at": "yes"},
    "revoked-at-false": lambda entry: {**entry, "revoked_at": False},
    "role-differs": lambda entry: {**entry, "role": "operator"},
    "a-list": lambda entry: [entry],
    "null": lambda entry: None,
}


class TestLedger:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        (tmp_path / "identities.jsonl").touch()
        return tmp_path / "identities.jsonl"

    def _entry(self, number: int = 1, name: str = "camera-1") -> LedgerEntry:
        now = utc_now()
        return LedgerEntry.of(serial_hex(number), device_id(name), now, now + timedelta(days=1))

    def test_the_last_line_of_a_serial_counts(self, path: Path) -> None:
        Ledger(path).append(self._entry(1), self._entry(2, "camera-2"))
        Ledger(path).append(self._entry(1).revoked(utc_now()))
        ledger = Ledger(path)
        assert ledger.line_count == 3
        assert [entry.state(utc_now()) for entry in ledger.entries()] == ["revoked", "active"]
        assert list(ledger.revocations()) == [1]

    def test_a_torn_last_line_is_dropped_and_then_removed(self, path: Path) -> None:
        Ledger(path).append(self._entry(1))
        whole = path.read_bytes()
        for length in range(len(whole) - 1):
            path.write_bytes(whole + whole[: length + 1].rstrip(b"\n"))
            ledger = Ledger(path)
            assert len(ledger.entries()) == 1
        ledger.append(self._entry(2))
        assert path.read_bytes().startswith(whole)
        assert [int(entry.serial, 16) for entry in Ledger(path).entries()] == [1, 2]

    @pytest.mark.parametrize("defect", DAMAGED_LINES)
    def test_a_damaged_line_is_never_passed_over(self, path: Path, defect: str) -> None:
        Ledger(path).append(self._entry(1))
        entry = json.loads(path.read_text())
        with path.open("a") as file:
            file.write(json.dumps(DAMAGED_LINES[defect](entry)) + "\n")
        with pytest.raises(IdentityError, match=r"identities\.jsonl:2"):
            Ledger(path)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=12))
    def test_it_reads_back_what_was_appended(
        self, tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, bool]]
    ) -> None:
        path = tmp_path_factory.mktemp("ledger") / "l"
        path.touch()
        expected: dict[str, LedgerEntry] = {}
        for number, revoke in events:
            entry = self._entry(number)
            entry = entry.revoked(utc_now()) if revoke else entry
            Ledger(path).append(entry)
            expected[entry.serial] = entry
        assert Ledger(path).entries() == list(expected.values())


def _verifier(domain: TrustDomain) -> WatchedPeerVerifier:
    layout = domain.layout
    return WatchedPeerVerifier(
        domain.name, layout.roots, layout.server_certificate, layout.revocations
    )


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestRotation:
    def test_a_new_server_certificate_has_a_new_key_and_the_same_names(
        self, domain: TrustDomain
    ) -> None:
        before = load_certificates(domain.layout.server_certificate)[0]
        entry = renew_server(domain)
        after, ca = load_certificates(domain.layout.server_certificate)
        assert server_hosts(after) == server_hosts(before)
        assert _uris(after) == _uris(before)
        assert after.public_key() != before.public_key()
        assert after.serial_number == int(entry.serial, 16)
        key = load_private_key(domain.layout.server_key, Algorithm.ECDSA_P256)
        assert key.public_key() == after.public_key()
        after.verify_directly_issued_by(ca)
        assert {path.name for path in domain.layout.server.iterdir()} == {
            "server.key",
            "server.crt",
        }

    def test_new_hosts_replace_the_old_ones(self, domain: TrustDomain) -> None:
        renew_server(domain, ["edge1.plant7.example"])
        certificate = load_certificates(domain.layout.server_certificate)[0]
        assert server_hosts(certificate) == ["edge1.plant7.example"]

    def test_a_refused_host_changes_nothing(self, domain: TrustDomain) -> None:
        before = _snapshot(domain.layout.folder)
        with pytest.raises(UsageError):
            renew_server(domain, ["not a host"])
        assert _snapshot(domain.layout.folder) == before

    def test_roots_one_then_two_then_one(self, domain: TrustDomain) -> None:
        layout, verifier = domain.layout, _verifier(domain)
        old_root = load_certificates(layout.root_certificate)[0]
        old_pem = leaf_pem(layout.identity("operator"))
        staged = stage_root(domain)
        assert load_certificates(layout.roots)[0] == old_root
        assert len(load_certificates(layout.roots)) == 2
        assert verifier.verify(old_pem).name == "operator"
        meanwhile = domain.issue("camera-1", "device")
        finished = finish_root(domain)
        assert (finished.old, finished.new) == (staged.old, staged.new)
        (new_root,) = load_certificates(layout.roots)
        assert new_root != old_root
        assert load_certificates(layout.root_certificate) == (new_root,)
        for path in (layout.server_certificate, meanwhile.folder / "client.crt"):
            load_certificates(path)[1].verify_directly_issued_by(new_root)
        assert load_certificates(meanwhile.folder / "roots.pem") == (new_root,)
        assert verifier.verify(old_pem).name == "operator"
        assert verifier.verify(leaf_pem(meanwhile.folder)).name == "camera-1"
        assert verifier.error is None
        key = load_private_key(layout.root_key, Algorithm.ECDSA_P384)
        assert key.public_key() == new_root.public_key()
        assert not list(layout.authority.glob("*.next.*"))
        domain.revoke("camera-1")
        with pytest.raises(IdentityError, match="revoked"):
            verifier.verify(leaf_pem(meanwhile.folder))

    def test_it_can_be_done_again_and_again(self, domain: TrustDomain) -> None:
        names = []
        for _ in range(3):
            stage_root(domain)
            finish_root(domain)
            names.append(load_certificates(domain.layout.root_certificate)[0].subject)
        assert [name.rfc4514_string()[3:18] for name in names] == [
            f"Casemate root {number}" for number in (2, 3, 4)
        ]

    def test_staging_twice_is_staging_once(self, domain: TrustDomain) -> None:
        assert stage_root(domain) == stage_root(domain)
        assert len(load_certificates(domain.layout.roots)) == 2

    def test_finishing_what_was_not_begun_is_refused(self, domain: TrustDomain) -> None:
        with pytest.raises(UsageError, match="no new root is staged"):
            finish_root(domain)

    def test_an_encrypted_root_is_followed_by_an_encrypted_root(self, tmp_path: Path) -> None:
        domain = make_domain(tmp_path / "site", passphrase=PASSPHRASE)
        with pytest.raises(KeyFileError, match="--passphrase-file"):
            stage_root(domain)
        with pytest.raises(KeyFileError, match="passphrase is wrong"):
            stage_root(domain, b"incorrect horse battery")
        assert not list(domain.layout.authority.glob("*.next.*"))
        stage_root(domain, PASSPHRASE)
        finish_root(domain)
        load_private_key(domain.layout.root_key, Algorithm.ECDSA_P384, PASSPHRASE)
        assert b"ENCRYPTED" in domain.layout.root_key.read_bytes()

    def test_a_root_kept_offline_can_be_replaced(self, domain: TrustDomain) -> None:
        domain.layout.root_key.unlink()
        stage_root(domain)
        finish_root(domain)
        load_private_key(domain.layout.root_key, Algorithm.ECDSA_P384)

    def test_the_issuing_authority_gets_more_time(self, tmp_path: Path) -> None:
        made = utc_now() - timedelta(days=700)
        domain = make_domain(tmp_path / "site", now=made)
        issued = domain.issue("camera-1", "device", days=60)
        assert load_certificates(issued.folder / "client.crt")[
            0
        ].not_valid_after_utc == made + timedelta(days=730)
        after = renew_issuing(domain)
        assert after.not_valid_after_utc > utc_now() + timedelta(days=729)
        assert _verifier(domain).verify(leaf_pem(issued.folder)).name == "camera-1"
        assert load_certificates(issued.folder / "client.crt")[1] == after

    def test_the_issuing_authority_needs_the_root(self, domain: TrustDomain) -> None:
        domain.layout.root_key.unlink()
        with pytest.raises(KeyFileError, match=r"root\.key"):
            renew_issuing(domain)


class _Crash(BaseException):
    """Stands for the process dying; nothing catches it."""


@pytest.mark.parametrize("step", ["stage", "finish"])
def test_a_rotation_killed_anywhere_is_completed_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Dies before each change of the file system in turn; then runs the command again."""
    real_write, real_rename = write_atomic, os.rename
    for survived in range(40):
        domain = make_domain(tmp_path / f"site-{survived}")
        if step == "finish":
            stage_root(domain)
        left = survived
        verifier = _verifier(domain)
        client = leaf_pem(domain.layout.identity("operator"))

        def spend() -> None:
            nonlocal left
            if left == 0:
                raise _Crash
            left -= 1

        def write(path: Path, data: bytes, mode: int = 0o644) -> None:
            spend()
            real_write(path, data, mode)

        def rename(self: Path, target: Path) -> None:
            spend()
            real_rename(self, target)

        run = stage_root if step == "stage" else finish_root
        with monkeypatch.context() as patch:
            patch.setattr(rotation, "write_atomic", write)
            patch.setattr(Path, "rename", rename)
            try:
                run(domain)
                crashed = False
            except _Crash:
                crashed = True
        # Whatever the moment: a running appliance, and one that starts now, serve the client.
        assert verifier.verify(client).name == "operator"
        assert _verifier(domain).verify(client).name == "operator"
        if not crashed:
            assert survived > 3
            return
        run(domain)
        if step == "stage":
            finish_root(domain)
        assert len(load_certificates(domain.layout.roots)) == 1
        assert _verifier(domain).verify(client).name == "operator"
        assert not list(domain.layout.authority.glob("*.next.*"))
    pytest.fail("the command never ended")


class TestPem:
    def test_anything_but_certificates_is_refused(self, domain: TrustDomain) -> None:
        pem = domain.layout.root_certificate.read_bytes()
        key = domain.layout.issuing_key.read_bytes()
        bad = {
            "empty": b"",
            "text": b"hello",
            "a key beside it": pem + key,
            "too many": pem * 17,
            "too large": pem + b"#" * 65536,
            "damaged": pem.replace(b"MII", b"MIJ", 1),
            "cut": pem[: len(pem) // 2],
        }
        for name, data in bad.items():
            with pytest.raises(IdentityError):
                parse_certificates(data, name)
        certificates = parse_certificates(pem * 2, "two")
        assert certificates_pem(certificates) == pem * 2


def test_a_certificate_names_its_times_to_the_second(issuing: CertifiedKey) -> None:
    moment = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    assert Lifetimes().window(1, moment)[0] == moment - timedelta(seconds=300)
    assert utc_now().microsecond == 0
