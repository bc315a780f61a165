"""The error tree.

    CasemateError                    everything this project raises on purpose
    ├── UsageError                   the caller asked for something impossible
    └── SecurityError                something was refused
        ├── KeyFileError             a key cannot be read, or others could read it
        ├── IdentityError            a certificate or a SPIFFE id is not acceptable
        ├── BundleError              a bundle is not acceptable (see .reason)
        │   ├── SignatureError       it is not signed by someone who is trusted
        │   ├── AttestationError     what it states of its model cannot be relied on
        │   └── UnsafeModelError     a pre-parser refused a model file
        └── AuditError               the audit log is damaged, full or inconsistent

Each message says what was refused and what to do, names files, never secrets,
and never holds text of a prompt or an answer.
"""

from __future__ import annotations


class CasemateError(Exception):
    """Base of every error this project raises on purpose."""


class UsageError(CasemateError):
    """The caller asked for something impossible; the message says what and why."""


class SecurityError(CasemateError):
    """Something was refused."""


class KeyFileError(SecurityError):
    """A key file is missing, malformed, or readable by others."""


class IdentityError(SecurityError):
    """A certificate or a SPIFFE id is not acceptable."""


class BundleError(SecurityError):
    """A bundle is not acceptable.

    Attributes:
        reason: a stable, machine-readable word such as "extra-file" or "symlink".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SignatureError(BundleError):
    """A bundle is not signed by someone who is trusted."""


class AttestationError(BundleError):
    """What a bundle states of its model cannot be relied on, or is not what a rule asks for."""


class UnsafeModelError(BundleError):
    """A pre-parser refused a model file before any native parser saw it."""


class AuditError(SecurityError):
    """The audit log is damaged, full or inconsistent."""
