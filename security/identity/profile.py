"""What each certificate says about itself: lifetimes, key usage, serial numbers.

Every lifetime is a field of `Lifetimes`; nothing else in this package holds a number
of days. The shape follows RFC 5280 and the SPIFFE X.509-SVID specification:
critical basicConstraints and keyUsage everywhere, exactly one URI SAN, an extended
key usage for one purpose only.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

from security.errors import UsageError

MAX_LIFETIME_DAYS = 36_500
# RFC 5280 4.1.2.2 allows 20 octets, positive: 159 bits are what always fits.
SERIAL_BITS = 159


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long things count, in days, and how far back they start.

    Attributes:
        root_days: the offline root; it is rotated long before.
        issuing_days: the issuing CA; `casemate rotate root` makes a new certificate.
        server_days: 397, the longest that common TLS clients accept.
        client_days: the default for `casemate identity issue`.
        crl_days: how long a revocation list counts. Ten years, on purpose: the list
            is a local file that only the authority's owner replaces, an edge site may
            see that person once a year, and a list that runs out refuses every client.
            A short life would defend against somebody who withholds a newer list; who
            can do that here can write the appliance's own files. What stands against
            an old list put back is the CRL number, which never goes down in a process
            (`security.identity.watch`).
        backdate_seconds: how far in the past not_before lies, for clocks that are slow.
    """

    root_days: int = 3650
    issuing_days: int = 730
    server_days: int = 397
    client_days: int = 90
    crl_days: int = 3650
    backdate_seconds: int = 300

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_days") and not 1 <= value <= MAX_LIFETIME_DAYS:
                raise UsageError(f"{field.name} is {value}, not 1 to {MAX_LIFETIME_DAYS}")
        if not 0 <= self.backdate_seconds <= 86_400:
            raise UsageError(f"backdate_seconds is {self.backdate_seconds}, not 0 to 86400")

    def window(self, days: int, now: datetime) -> tuple[datetime, datetime]:
        """Return not_before and not_after of something made `now` for `days` days."""
        start = now - timedelta(seconds=self.backdate_seconds)
        return start, now + timedelta(days=days)


def new_serial() -> int:
    """Return a random serial number of 159 bits, not 0."""
    return secrets.randbelow((1 << SERIAL_BITS) - 1) + 1


def serial_hex(serial: int) -> str:
    """Write a serial number as the ledger and the command line do: lower-case hex."""
    return f"{serial:040x}"


def utc_now() -> datetime:
    """Return the present time, to the second (what X.509 can say), in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def rfc3339(moment: datetime) -> str:
    """Write a UTC time as 2026-11-23T00:00:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> datetime:
    """Read what `rfc3339` wrote.

    Raises:
        ValueError: it is not of that form.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
