"""Casemate's public face: the client library and the `casemate` command.

    from casemate import Client

    with Client.from_identity("identities/camera-7") as client:
        for piece in client.generate("gemma-3-270m", "The lighthouse"):
            print(piece.text, end="")

`AsyncClient` is the same for asyncio. Both are imported on first use, because
gRPC takes longer to load than most commands take to run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from casemate.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in {"AsyncClient", "Client"}:
        from casemate import client

        return getattr(client, name)
    raise AttributeError(f"module 'casemate' has no attribute {name!r}")
