"""Stage 3: whether there is time and room for the call, and whether it is well formed.

Cheap checks first; nothing is computed for a call that cannot be answered.
"""

from __future__ import annotations

import asyncio

import grpc

from runtime.front.call import Call
from runtime.front.errors import Refusal, audit_unavailable, deadline_exceeded, invalid
from runtime.front.spec import Malformed
from runtime.front.stages.base import Parts
from runtime.policy.model import Role

_DRAIN_RETRY_SECONDS = 5.0


class Admit:
    """Sets `call.deadline`, `call.served` and holds the call's place and tokens."""

    name = "admit"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, call: Call) -> None:
        """Admit the call, or raise what refuses it."""
        # 1. Is anything served at all?
        if self._parts.draining:
            raise Refusal(
                grpc.StatusCode.UNAVAILABLE,
                "DRAINING",
                "the appliance is stopping",
                retry_after_seconds=_DRAIN_RETRY_SECONDS,
            )
        if not self._parts.log.healthy and not call.spec.unaudited_because:
            raise audit_unavailable(self._parts.log.failure)
        # 2. Is there time?
        call.deadline = self._deadline(call)
        # 3. Is it a message, and is there room?
        principal, role = call.principal, call.role
        if principal is None or role is None:
            raise Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", "an internal error")
        call.hold(self._parts.limiter.enter(principal.spiffe_id, role.limits))
        if isinstance(call.request, Malformed):
            raise invalid("request", "is no valid message (is a text not UTF-8?)", "MALFORMED")
        # 4. Is the model there, and is every field right?
        named = call.spec.handler.model(call.request)
        if named is not None:
            if not named[0]:
                raise invalid("model", "must not be empty")
            if call.spec.handler.leases:
                call.served = call.enter(self._parts.catalog.lease(*named))
                call.version = call.served.version
        call.spec.handler.validate(call)
        # 5. Has the principal tokens left?
        self._reserve(call, principal.spiffe_id, role)

    def _deadline(self, call: Call) -> float | None:
        """Return the loop time at which the call must have ended."""
        limits = self._parts.limits
        left = call.time_left
        if left is None:
            if call.spec.may_wait:
                return None
            left = limits.default_deadline_seconds
        if left <= 0:
            raise deadline_exceeded()
        if not call.spec.may_wait:
            left = min(left, limits.max_deadline_seconds)
        return asyncio.get_running_loop().time() + left

    def _reserve(self, call: Call, principal: str, role: Role) -> None:
        estimate = call.spec.handler.estimate_tokens(call)
        if estimate:
            settle = self._parts.limiter.reserve(principal, role.limits, estimate)
            call.reserved_tokens = estimate
            call.hold(lambda: settle(call.charged_tokens))
