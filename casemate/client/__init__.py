"""The client library: typed calls, streams, safe retries, verified receipts.

    from casemate import Client

    with Client.from_identity("identities/camera-7") as client:
        scores = client.score("gemma-3-270m", ["The sky is blue."])

`AsyncClient` has the same methods for asyncio. gRPC is loaded with the first of the
two names that is used; the plain parts (`tensors`, `types`) need none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from casemate.client.tensors import Tensor
from casemate.client.types import Message

if TYPE_CHECKING:
    from casemate.client.aio import AsyncClient
    from casemate.client.core import ClientConfig
    from casemate.client.errors import ClientError
    from casemate.client.retry import RetryPolicy
    from casemate.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "ClientConfig",
    "ClientError",
    "Message",
    "RetryPolicy",
    "Tensor",
]

_LAZY = {
    "AsyncClient": "casemate.client.aio",
    "Client": "casemate.client.sync",
    "ClientConfig": "casemate.client.core",
    "ClientError": "casemate.client.errors",
    "RetryPolicy": "casemate.client.retry",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'casemate.client' has no attribute {name!r}")
