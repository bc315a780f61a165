"""ModelService: what is served and, for operators, what should be.

The names of models a role may not use are not listed for it. Operations go on when
the client that asked for them hangs up, and each leaves an `operation` entry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from casemate.pb.casemate.v1 import model_pb2
from runtime.front.call import Call
from runtime.front.errors import invalid
from runtime.front.spec import Handler
from runtime.models.catalog import ModelCatalog

MAX_NAME_CHARS = 128


class _Managed(Handler):
    def __init__(self, catalog: ModelCatalog) -> None:
        self._catalog = catalog


def _require_name(field: str, value: str) -> None:
    if not value:
        raise invalid(field, "must not be empty")
    if len(value) > MAX_NAME_CHARS or not value.isprintable():
        raise invalid(field, f"is no name of at most {MAX_NAME_CHARS} characters")


class ListModels(_Managed):
    """The models the caller may use."""

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer."""
        listed = self._catalog.list()
        role = call.role
        allowed = [m for m in listed.models if role is not None and role.allows_model(m.name)]
        yield model_pb2.ListModelsResponse(models=allowed)


class DescribeModel(_Managed):
    """One model with its signed manifest."""

    def model(self, request: model_pb2.DescribeModelRequest) -> tuple[str, str]:
        """Return the model that is named."""
        return request.model, request.version

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer."""
        yield self._catalog.describe(call.model, call.version)


class InstallBundle(_Managed):
    """Takes a bundle from the incoming folder."""

    def validate(self, call: Call) -> None:
        """Check the folder's name."""
        _require_name("incoming", call.request.incoming)

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer when the version is staged or live."""
        response = await self._catalog.install(call.request.incoming, call.request.stage_only)
        call.model, call.version = response.model, response.version.version
        yield response


class PromoteVersion(_Managed):
    """Makes an installed version live. It need not be loaded yet, so none is leased."""

    leases = False

    def model(self, request: model_pb2.PromoteVersionRequest) -> tuple[str, str]:
        """Return the model that is named."""
        return request.model, request.version

    def validate(self, call: Call) -> None:
        """Check the version's name."""
        _require_name("version", call.request.version)

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer when the version is live."""
        yield await self._catalog.promote(call.request.model, call.request.version)


class RollbackModel(_Managed):
    """Makes the previous version live again."""

    leases = False

    def model(self, request: model_pb2.RollbackModelRequest) -> tuple[str, str]:
        """Return the model that is named."""
        return request.model, ""

    async def answer(self, call: Call) -> AsyncIterator[Any]:
        """Yield the answer when the previous version is live."""
        response = await self._catalog.rollback(call.request.model)
        call.version = response.version.version
        yield response
