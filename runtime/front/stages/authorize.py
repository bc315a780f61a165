"""Stage 2: whether the policy allows this principal the method and the model. Default deny.

A model the role may not use is refused in the same way whether it exists or not.
"""

from __future__ import annotations

import re

import grpc

from runtime.front.call import Call
from runtime.front.errors import Refusal
from runtime.front.spec import Malformed
from runtime.front.stages.base import Parts

_NAME = re.compile(r"[A-Za-z0-9._+-]{0,64}")


class Authorize:
    """Sets `call.policy`, `call.role`, `call.model` and `call.version`."""

    name = "authorize"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, call: Call) -> None:
        """Look the role up; raise PERMISSION_DENIED."""
        principal = call.principal
        if principal is None:
            raise _denied("NO_PRINCIPAL", "the caller is not known")
        call.policy = self._parts.policies.current
        role = call.policy.roles.get(principal.role)
        if role is None or not role.allows_method(call.spec.name):
            raise _denied("METHOD_NOT_ALLOWED", "the policy does not allow this method")
        call.role = role
        if isinstance(call.request, Malformed):
            # Stage 3 refuses it; nothing of it can be read here.
            return
        named = call.spec.handler.model(call.request)
        if named is not None:
            model, version = named
            if model and not role.allows_model(model):
                raise _denied("MODEL_NOT_ALLOWED", "the policy does not allow this model")
            call.model, call.version = _recorded(model), _recorded(version)


def _recorded(name: str) -> str:
    """Return what goes on record: a name, never a text that a client wrote in its place."""
    return name if _NAME.fullmatch(name) else "(invalid)"


def _denied(reason: str, message: str) -> Refusal:
    return Refusal(grpc.StatusCode.PERMISSION_DENIED, reason, message)
