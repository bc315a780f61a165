"""The catalog's errors, each with one meaning on the wire.

    CasemateError
    └── CatalogError
        ├── UnknownModel         NOT_FOUND: no such model here
        ├── UnknownVersion       NOT_FOUND: the model has no such version, or it is not loaded
        ├── ModelNotReady        UNAVAILABLE: it will be back; see .retry_after_ms
        ├── CatalogBusy          ABORTED: another operation on this model is running
        ├── ModelExpired         FAILED_PRECONDITION: the signed end of its life has passed
        ├── ModelNotAdmitted     FAILED_PRECONDITION: the policy asks for another privacy claim
        ├── NotPossible          FAILED_PRECONDITION: the state does not allow it
        └── ProbesFailed         FAILED_PRECONDITION: the version did not pass; the live one stays

Bundles that do not verify raise `security.errors.BundleError`, and the store its
own `StoreError`; both pass through the catalog unchanged.
"""

from __future__ import annotations

from security.errors import CasemateError


class CatalogError(CasemateError):
    """Base of what the model catalog raises."""


class UnknownModel(CatalogError):
    """No model of that name is installed."""

    def __init__(self, model: str) -> None:
        super().__init__(f"no model named {model[:64]!r} is served here")
        self.model = model


class UnknownVersion(CatalogError):
    """The model has no such version, or the version is not loaded."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"model {model} has no loaded version {version[:64]!r}")
        self.model = model
        self.version = version


class ModelNotReady(CatalogError):
    """The model is installed but cannot answer now.

    Attributes:
        retry_after_ms: when asking again is worth it, in milliseconds.
    """

    def __init__(self, model: str, retry_after_ms: int) -> None:
        super().__init__(f"model {model} is not ready; try again in {retry_after_ms} ms")
        self.model = model
        self.retry_after_ms = retry_after_ms


class ModelExpired(CatalogError):
    """The version's `not_after`, which the signature covers, has passed."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(f"model {model} {version} has expired: install a newer version")
        self.model = model
        self.version = version


class ModelNotAdmitted(CatalogError):
    """The policy's admission rules refuse the version.

    Attributes:
        reason: why, for an operator; made of numbers and fixed words.
    """

    def __init__(self, model: str, version: str, reason: str) -> None:
        super().__init__(f"the policy does not admit {model} {version}: {reason}")
        self.model = model
        self.version = version
        self.reason = reason


class CatalogBusy(CatalogError):
    """Another install, promote or rollback of the same model is running."""

    def __init__(self, model: str) -> None:
        super().__init__(f"model {model} is busy: another operation on it is running; try again")
        self.model = model


class NotPossible(CatalogError):
    """The version's state does not allow what was asked."""


class ProbesFailed(CatalogError):
    """A version was loaded but its golden requests did not give what they must."""
