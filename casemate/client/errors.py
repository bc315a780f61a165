"""What a call can fail with.

    CasemateError
    └── ClientError               .code .reason .field .retry_after_seconds .request_id
        ├── ConnectionFailed      the appliance was not reached, or TLS was refused
        ├── Unavailable           it, or the model, cannot answer now
        ├── TooBusy               a limit on requests, tokens or concurrency
        ├── InvalidRequest        the request is wrong; .field names where
        ├── NotFound              no such model, version or entry
        ├── Refused               not allowed for this identity, or not in this state
        ├── DeadlineExceeded      no answer in time
        ├── Cancelled             the caller cancelled it
        ├── ServerFault           the appliance failed
        └── ReceiptError          the receipt does not prove this request and answer

The message is the appliance's fixed public one; it never holds prompt or answer text.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc

from casemate.client.status import Details, parse_details
from security.errors import CasemateError

REQUEST_ID_KEY = "casemate-request-id"
_STATUS_KEY = "grpc-status-details-bin"


class ClientError(CasemateError):
    """A call failed.

    Attributes:
        code: the gRPC status code's name, such as "INVALID_ARGUMENT".
        reason: the appliance's stable word for it, or "".
        field: the request's field at fault, or "".
        retry_after_seconds: when trying again is worth it; None when it did not say.
        request_id: names the call in the appliance's log, or "".
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        field: str = "",
        retry_after_seconds: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.field = field
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id


class ConnectionFailed(ClientError):
    """The appliance was not reached, or one side refused the other's certificate."""


class Unavailable(ClientError):
    """The appliance, or the model, cannot answer now."""


class TooBusy(ClientError):
    """A limit on requests, tokens or concurrency was reached."""


class InvalidRequest(ClientError):
    """The request is wrong."""


class NotFound(ClientError):
    """There is no such model, version or log entry."""


class Refused(ClientError):
    """It is not allowed for this identity, or not possible in this state."""


class DeadlineExceeded(ClientError):
    """There was no answer in time."""


class Cancelled(ClientError):
    """The caller cancelled the call."""


class ServerFault(ClientError):
    """The appliance failed; its log has the details under the request id."""


class ReceiptError(ClientError):
    """A receipt does not prove this request and this answer."""


_KINDS: Mapping[str, type[ClientError]] = MappingProxyType(
    {
        "UNAVAILABLE": Unavailable,
        "RESOURCE_EXHAUSTED": TooBusy,
        "INVALID_ARGUMENT": InvalidRequest,
        "OUT_OF_RANGE": InvalidRequest,
        "NOT_FOUND": NotFound,
        "UNAUTHENTICATED": Refused,
        "PERMISSION_DENIED": Refused,
        "FAILED_PRECONDITION": Refused,
        "ALREADY_EXISTS": Refused,
        "ABORTED": Refused,
        "DEADLINE_EXCEEDED": DeadlineExceeded,
        "CANCELLED": Cancelled,
    }
)

# What gRPC says when there was no call at all, and what that means for a person.
_CONNECTION = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "{target} has a certificate that this identity's roots.pem does not vouch for: "
        "it is another appliance, or its authority was replaced",
    ),
    (
        "not in peer certificate",
        "{target} has a certificate for another name than the server_name in client.toml",
    ),
    (
        "Hostname Verification",
        "{target} has a certificate for another name than the server_name in client.toml",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "{target} does not speak TLS: that is not an appliance's port",
    ),
    (
        "Connection refused",
        "nothing listens on {target}: is the appliance running (casemate serve), "
        "and is this the right address?",
    ),
    ("DNS resolution failed", "the name in {target} cannot be resolved"),
    ("No such file", "{target} does not exist"),
    (
        "handshake",
        "the TLS handshake with {target} failed: certificates of the two sides do not fit",
    ),
)
_CLOSED = (
    "{target} closed the connection: it does not accept this identity's certificate "
    "(expired, revoked, or from another authority), or it is shutting down"
)
_CLOSED_MARKS = (
    "Socket closed",
    "Connection reset",
    "Stream removed",
    "recvmsg",
    "Broken pipe",
    "CERTIFICATE",
    "failed to connect",
)


_TOO_LATE = (
    "the time limit passed before the answer was complete: allow more with timeout_seconds "
    "(on the command line --timeout SECONDS)"
)
_MAX_SHOWN_CHARS = 64


def from_rpc_error(error: grpc.RpcError, target: str, model: str = "") -> ClientError:
    """Turn gRPC's error into ours, with a message that says what to do.

    Args:
        error: what gRPC raised.
        target: whom was called.
        model: the model that the request names, or "".
    """
    code = error.code().name if hasattr(error, "code") else "UNKNOWN"
    text = (error.details() if hasattr(error, "details") else None) or ""
    metadata = _metadata(error)
    details = parse_details(metadata.get(_STATUS_KEY, b""))
    request_id = metadata.get(REQUEST_ID_KEY, b"").decode("ascii", errors="replace")
    if code == "UNAVAILABLE" and not details.reason and not request_id:
        message = _connection_message(text, target)
        if message is not None:
            return ConnectionFailed(message, code=code)
    return _KINDS.get(code, ServerFault)(
        _message(code, text, details, target, model),
        code=code,
        reason=details.reason,
        field=details.field,
        retry_after_seconds=details.retry_after_seconds,
        request_id=request_id,
    )


def _message(code: str, text: str, details: Details, target: str, model: str) -> str:
    if code == "DEADLINE_EXCEEDED":
        # gRPC's own words for it are about its streams.
        return _TOO_LATE
    if details.reason == "UNKNOWN_MODEL" and model:
        return f"no model {model[:_MAX_SHOWN_CHARS]!r} is served here: 'casemate models' lists them"
    message = text or f"{target} answered {code} without a message"
    if details.field and details.field not in message:
        message = f"{details.field}: {message}"
    if details.retry_after_seconds is not None and "try again" not in message:
        message = f"{message} (try again in {details.retry_after_seconds:g} s)"
    return message


def _connection_message(text: str, target: str) -> str | None:
    for mark, message in _CONNECTION:
        if mark in text:
            return message.format(target=target)
    if any(mark in text for mark in _CLOSED_MARKS):
        return _CLOSED.format(target=target)
    return None


def _metadata(error: grpc.RpcError) -> dict[str, bytes]:
    """Return the trailing metadata, values as bytes; empty when the call never began."""
    read = getattr(error, "trailing_metadata", None)
    pairs = (read() if read is not None else None) or ()
    return {
        str(key): value if isinstance(value, bytes) else str(value).encode() for key, value in pairs
    }
