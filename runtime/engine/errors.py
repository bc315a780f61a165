"""The engine's errors, and why a request can fail.

    EngineError                 everything the engine raises on purpose
    ├── InvalidRequest          a field of the request is not acceptable (.field names it)
    ├── TemplateError           the bundle's chat template cannot be used, or refused the messages
    ├── LoadError               the backend could not load the model
    └── DecodeError             a step did not complete
        └── NoSlotError         the KV cache has no room for the step; nothing was computed

The engine imports nothing of `security`, so this tree has a root of its own; the
worker turns each into the failure the front understands. No message holds text of a
prompt or of an answer.
"""

from __future__ import annotations

import enum


class FailureReason(enum.Enum):
    """Why a request ended without a result; the names are the wire's."""

    INVALID_ARGUMENT = "invalid_argument"
    CAPACITY = "capacity"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    INTERNAL = "internal"
    UNSUPPORTED = "unsupported"
    LOAD = "load"


class EngineError(Exception):
    """Base of every error the engine raises on purpose."""


class InvalidRequest(EngineError):
    """A field of a request is not acceptable.

    Attributes:
        field: the request's field, as the wire names it, such as "sampling.top_p".
        reason: INVALID_ARGUMENT, or CAPACITY when a smaller appliance is at fault.
    """

    def __init__(
        self,
        field: str,
        message: str,
        reason: FailureReason = FailureReason.INVALID_ARGUMENT,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.reason = reason


class TemplateError(EngineError):
    """A chat template is unusable, passed a limit, or refused the messages it was given."""


class LoadError(EngineError):
    """The backend could not load the model."""


class DecodeError(EngineError):
    """A step did not complete; what it had computed cannot be relied on."""


class NoSlotError(DecodeError):
    """The KV cache has no room for the step; nothing of it was computed."""
