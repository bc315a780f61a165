"""SPIFFE ids: parsed strictly, and narrowed to the shape that this project issues.

Source: the SPIFFE-ID specification, sections 2.1 (trust domain), 2.2 (path) and 2.3
(length). What the specification lets an issuer avoid is refused: upper case in the
scheme or the trust domain, percent-encoding, ports, user info, queries, fragments,
empty segments, "." and "..", a trailing slash.

Invariant: `str(SpiffeId.parse(text)) == text` for every text that is accepted, so
two different texts never mean the same id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from security.errors import IdentityError

SCHEME = "spiffe://"
MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255

# The role of server certificates; never issued to a client.
APPLIANCE_ROLE = "appliance"
DEFAULT_ROLE = "device"

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ROLE = re.compile(r"[a-z0-9-]{1,32}")
_MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE id: a trust domain and a path, which is empty or starts with "/"."""

    trust_domain: str
    path: str

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Parse an id.

        Raises:
            IdentityError: it breaks a rule of the specification; the message names it.
        """
        if len(text) > MAX_ID_BYTES:
            raise IdentityError(f"a SPIFFE id has at most {MAX_ID_BYTES} bytes")
        if not text.startswith(SCHEME):
            raise IdentityError(f"a SPIFFE id starts with {SCHEME}, {_shown(text)} does not")
        trust_domain, slash, rest = text.removeprefix(SCHEME).partition("/")
        check_trust_domain(trust_domain)
        if slash:
            for segment in rest.split("/"):
                if segment in {"", ".", ".."} or not _SEGMENT.fullmatch(segment):
                    raise IdentityError(
                        f"{_shown(text)} is no SPIFFE id: a path segment is not made of "
                        f"letters, digits, '.', '-' and '_', or is empty, '.' or '..'"
                    )
        return cls(trust_domain, slash + rest)

    @classmethod
    def of(cls, trust_domain: str, role: str, name: str) -> SpiffeId:
        """Build `spiffe://TRUST DOMAIN/ROLE/NAME`.

        Raises:
            IdentityError: a part is not allowed.
        """
        check_trust_domain(trust_domain)
        check_role(role)
        check_name(name)
        return cls(trust_domain, f"/{role}/{name}")

    def role_and_name(self) -> tuple[str, str]:
        """Return the two parts of a path `/ROLE/NAME`, the only shape we issue.

        Raises:
            IdentityError: the path has another shape.
        """
        match self.path.split("/"):
            case ["", role, name] if _ROLE.fullmatch(role) and _NAME.fullmatch(name):
                return role, name
        raise IdentityError(f"{_shown(str(self))} does not end in /ROLE/NAME")

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"


def check_trust_domain(text: str) -> None:
    """Refuse what is no trust domain name (SPIFFE-ID 2.1).

    Raises:
        IdentityError: it is empty, longer than 255 bytes, or has other characters.
    """
    if len(text) > MAX_TRUST_DOMAIN_BYTES or not _TRUST_DOMAIN.fullmatch(text):
        raise IdentityError(
            f"a trust domain name has 1 to {MAX_TRUST_DOMAIN_BYTES} of the characters a-z, 0-9, "
            f"'.', '-' and '_'; {_shown(text)} does not"
        )


def check_name(text: str) -> None:
    """Refuse what is no name of an identity: it also names a folder.

    Raises:
        IdentityError: it does not match [a-z0-9][a-z0-9._-]{0,62}.
    """
    if not _NAME.fullmatch(text):
        raise IdentityError(
            f"a name starts with a-z or 0-9 and has at most 63 of the characters a-z, 0-9, '.', "
            f"'-' and '_'; {_shown(text)} does not"
        )


def check_role(text: str) -> None:
    """Refuse what is no role.

    Raises:
        IdentityError: it does not match [a-z0-9-]{1,32}.
    """
    if not _ROLE.fullmatch(text):
        raise IdentityError(
            f"a role has 1 to 32 of the characters a-z, 0-9 and '-'; {_shown(text)} does not"
        )


def _shown(text: str) -> str:
    """Quote hostile text for a message: bounded, and without control characters."""
    return ascii(text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "...")
