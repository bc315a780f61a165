"""What a worker says is wrong with a request, put into words of the front's own.

A worker that was taken over writes what it likes into a failure, a text that it was
given for one. So nothing of it is passed on, to a client or to the log: a reason
chooses the status; a field is taken only when it is one that requests have; and a
detail is only recognised, as one of the texts below, whose words are the front's. Of a
detail's own there remain counts, read as integers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SAMPLING = "temperature|top_k|top_p|min_p|repetition_penalty|presence_penalty"
_FIELD = re.compile(
    r"prompt|max_tokens|top_logprobs|logprobs|deadline|model|raw_input_contents"
    rf"|sampling\.({_SAMPLING})"
    r"|stop(\[[0-9]\])?"
    r"|chat(\.messages(\[[0-9]{1,5}\])?(\.(role|content))?)?"
    r"|texts(\[[0-9]{1,5}\])?"
    r"|inputs(\[[0-9]{1,5}\](\.(name|datatype|shape|contents))?)?"
    r"|outputs(\[[0-9]{1,5}\]\.name)?"
)
_SEE = "ModelMetadata tells what the model takes"
_COUNT = "([0-9]{1,9})"
# What the engine says -> what the client is told; {0}, {1} are the engine's counts.
_TEXTS: Sequence[tuple[str, str]] = (
    (
        f"{_COUNT} tokens are needed and the context has {_COUNT}",
        "{0} tokens are needed and the context has {1}",
    ),
    (
        f"{_COUNT} tokens are needed and the KV cache has {_COUNT}",
        "{0} tokens are needed and the KV cache has {1}",
    ),
    (
        f"the text has {_COUNT} tokens; the model takes {_COUNT}",
        "the text has {0} tokens; the model takes {1}",
    ),
    (f"max_tokens must be at most {_COUNT} for this model", "is over the model's {0}"),
    (
        f"{_COUNT} bytes do not fill the shape: {_COUNT} would",
        "{0} bytes do not fill the shape: {1} would",
    ),
    ("the tensor holds NaN or infinity", "the tensor holds NaN or infinity"),
    ("the tensor is empty", "the tensor is empty"),
    ("the text has no tokens", "the text has no tokens"),
    ("the text is not valid Unicode", "the text is not valid Unicode"),
    ("a BOOL element is neither 0 nor 1", "a BOOL element is neither 0 nor 1"),
    ("shape .* does not fit the model's .*", f"the shape does not fit the model's; {_SEE}"),
    ("the model wants .*", f"the datatype is not the model's; {_SEE}"),
    ("the model has no such input", f"the model has no such input; {_SEE}"),
    ("the model has no such output", "the model has no such output; ModelMetadata lists them"),
    ("input .* is missing", f"an input of the model is missing; {_SEE}"),
    ("an output is asked for twice", "an output is asked for twice"),
    (
        "the first dimensions of the inputs differ",
        "the first dimensions of the inputs differ",
    ),
    ("the request is too large for the worker", "the request is too large for the worker"),
    # These do not reach a client, who is told of the status alone; the log has them.
    ("the model's queue is full", "the model's queue is full"),
    ("the tenant's part of the queue is full", "the tenant's part of the queue is full"),
    ("too many (requests|inputs) are waiting", "the engine's queue is full"),
    ("the worker does not keep up", "the worker does not keep up"),
    ("the client reads too slowly", "the client reads too slowly"),
    ("the answer is too large to be sent", "the answer is too large to be sent"),
)
_KNOWN = tuple((re.compile(pattern, re.DOTALL), text) for pattern, text in _TEXTS)


def known_field(field: str) -> str:
    """Return `field` when it is the name of a request's field, otherwise ""."""
    return field if _FIELD.fullmatch(field) else ""


def own_words(detail: str) -> str:
    """Return the front's text for what a worker says; "" when it is none that is known."""
    for pattern, text in _KNOWN:
        found = pattern.fullmatch(detail)
        if found is not None:
            counts = [int(group) for group in found.groups() if group and group.isdecimal()]
            return text.format(*counts)
    return ""
