"""The appliance's errors.

    CasemateError
    └── ApplianceError
        └── WorkerError          a worker could not be started, or broke its contract
            ├── SettingsError    a limit of the workers is out of range
            ├── SandboxError     a layer of the sandbox is missing and nobody opted out
            ├── FrameError       a frame between front and worker is malformed or too large
            ├── NoVariant        no variant of a bundle suits this processor
            ├── WorkerGone       the worker died or is restarting (.retry_after_ms)
            └── WorkFailed       the worker refused or could not do this one request

Other parts keep their errors beside their code, all of them `CasemateError`s: the
configuration in `runtime.config`, the catalog (unknown model, not ready) in
`runtime.models.errors`, the store (locked, disk full) in `runtime.store.errors`.
No message holds text of a prompt or an answer.
"""

from __future__ import annotations

import enum

from security.errors import CasemateError


class FailureReason(enum.StrEnum):
    """Why a worker did not do a request. The front maps each to one gRPC status."""

    INVALID_ARGUMENT = "invalid-argument"
    CAPACITY = "capacity"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    INTERNAL = "internal"
    UNSUPPORTED = "unsupported"
    LOAD = "load"


class ApplianceError(CasemateError):
    """Base of what the appliance raises on purpose."""


class WorkerError(ApplianceError):
    """A worker could not be started, or broke its contract.

    Attributes:
        reason: LOAD when the model could not be loaded, otherwise INTERNAL.
    """

    def __init__(self, message: str, reason: FailureReason = FailureReason.INTERNAL) -> None:
        super().__init__(message)
        self.reason = reason


class SettingsError(WorkerError):
    """A limit given for the workers is out of range; the message names it."""


class SandboxError(WorkerError):
    """A layer of the sandbox cannot be put in force and the operator did not opt out."""

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(
            f"sandbox layer {layer!r} cannot be put in force: {message}; "
            f"run 'casemate doctor', or accept the risk by name: allow_missing_layers = [{layer!r}]"
        )
        self.layer = layer


class FrameError(WorkerError):
    """A frame between front and worker is malformed, cut short or too large."""


class NoVariant(WorkerError):
    """No variant of a bundle suits this processor; the message says what each needs."""

    def __init__(self, message: str) -> None:
        super().__init__(message, FailureReason.LOAD)


class WorkerGone(WorkerError):
    """The worker died, is restarting or is draining; the request may be tried again.

    Attributes:
        retry_after_ms: when asking again is worth it, in milliseconds.
    """

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(f"the model's worker is not available; retry in {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


class WorkFailed(WorkerError):
    """The worker refused, or could not do, one request; others are not affected.

    Attributes:
        reason: which kind of failure.
        field: the request's field at fault ("prompt", "inputs[3]"), or empty.
        detail: for a person; never text of the request or the answer.
    """

    def __init__(self, reason: FailureReason, field: str = "", detail: str = "") -> None:
        super().__init__(
            ": ".join(part for part in (field, detail or reason.value) if part), reason
        )
        self.field = field
        self.detail = detail
