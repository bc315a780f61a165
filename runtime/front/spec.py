"""What the stages need to know of a method: its name, its kind and its handler.

`Handler` is the one interface between the chain of stages, which is the same for
every call, and the services, which differ. The defaults are those of a method that
names no model and carries no text.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

if TYPE_CHECKING:
    from runtime.front.call import Call


class Kind(enum.Enum):
    """How many messages go each way."""

    UNARY = "unary"
    SERVER_STREAM = "server-stream"
    BIDI_STREAM = "bidi-stream"


class Malformed:
    """Stands for a request whose bytes are no message of its type."""


MALFORMED = Malformed()


class OutFilter:
    """Turns what the handler answers into what may leave. This one lets all pass.

    Only for methods whose answers hold no text that a model or a client wrote.

    Attributes:
        done: set when nothing more may leave; the work is then stopped.
    """

    done = False

    def feed(self, message: Any) -> Iterable[Any]:
        """Return the messages that may leave after `message`."""
        return (message,)


class Handler:
    """One method of a service.

    Attributes:
        leases: whether a call holds the version of the model it names to its end.
    """

    leases = True

    def model(self, request: Any) -> tuple[str, str] | None:
        """Return the model and version a request names; None for a method without."""
        return None

    def validate(self, call: Call) -> None:
        """Check every field. `call.served` is set when the method names a model.

        Raises:
            Refusal: it names the field at fault.
        """

    def estimate_tokens(self, call: Call) -> int:
        """Return the tokens to reserve for the call from its principal's allowance."""
        return 0

    def texts(self, request: Any) -> Sequence[str]:
        """Return every text of the request, in the order of the commitment."""
        return ()

    def replace_texts(self, request: Any, texts: Sequence[str]) -> None:
        """Put redacted texts in the place of those that `texts` returned."""

    def request_parts(self, request: Any) -> Iterable[bytes]:
        """Return the parts the request's commitment covers."""
        return (text.encode() for text in self.texts(request))

    def answer(self, call: Call) -> AsyncIterator[Any]:
        """Start the work at once; return its answers in order. Raises typed errors."""
        raise NotImplementedError

    def out_filter(self, call: Call) -> OutFilter:
        """Return the filter for the call's answers."""
        return OutFilter()

    def answer_parts(self, call: Call, message: Any) -> Iterable[bytes]:
        """Return the parts that a message which leaves adds to the answer's commitment."""
        return ()


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method as the front serves it.

    Attributes:
        name: "package.Service/Method".
        kind: how many messages go each way.
        request, response: the message classes.
        handler: what answers.
        operation: the audit log is told what it changed.
        unaudited_because: why calls that succeed leave no entry; "" for all that do.
        may_wait: without a deadline of the client it may stay open.
    """

    name: str
    kind: Kind
    request: type[Message]
    response: type[Message]
    handler: Handler
    operation: bool = False
    unaudited_because: str = ""
    may_wait: bool = False

    @property
    def service(self) -> str:
        """The service's full name."""
        return self.name.partition("/")[0]
