"""The chain of stages: the one path that every call of every service takes.

    1 authenticate   2 authorize   3 admit    4 filter_in   5 audit_in
    6 dispatch       7 filter_out  8 audit_out              9 receipt

A call that is refused leaves the chain where it is and goes on at stage 8: refusals
are put on record too. Invariants: no stage is skipped before dispatch; nothing of an
answer leaves before stage 5's entry is durable; no status before stage 8's is;
no message is received from a peer that stage 1 does not accept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import aclosing
from typing import Any

import grpc

from runtime.front.call import Call
from runtime.front.errors import Refusal, as_refusal, cancelled
from runtime.front.intake import Intake
from runtime.front.stages.admit import Admit
from runtime.front.stages.audit_in import AuditIn
from runtime.front.stages.audit_out import AuditOut
from runtime.front.stages.authenticate import Authenticate
from runtime.front.stages.authorize import Authorize
from runtime.front.stages.base import Parts, Stage
from runtime.front.stages.dispatch import Dispatch
from runtime.front.stages.entries import counted_entry
from runtime.front.stages.filter_in import FilterIn
from runtime.front.stages.filter_out import FilterOut
from runtime.front.stages.receipt import Receipt

STAGES = (
    Authenticate.name,
    Authorize.name,
    Admit.name,
    FilterIn.name,
    AuditIn.name,
    Dispatch.name,
    FilterOut.name,
    AuditOut.name,
    Receipt.name,
)
_LOG = logging.getLogger("casemate.front")
_UNEXPECTED = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


class Pipeline:
    """Runs calls through the stages and keeps track of those that are open."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.open: set[Call] = set()
        # Set while no call is open.
        self.idle = asyncio.Event()
        self.idle.set()
        self._authenticate = Authenticate(parts)
        limits = parts.limits
        self._intake = Intake(
            most=limits.max_concurrent_calls,
            most_of_one=limits.max_streams_per_connection,
            seconds=limits.max_receive_seconds,
        )
        self._admission: tuple[Stage, ...] = (
            Authorize(parts),
            Admit(parts),
            FilterIn(parts),
            AuditIn(parts),
        )
        self._work: tuple[Stage, ...] = (Dispatch(parts), FilterOut(parts))
        self._audit_out = AuditOut(parts)
        self._receipt = Receipt(parts)

    async def run(self, call: Call) -> None:
        """Run one call to its end; `call.refusal` says how it ended.

        Raises:
            CancelledError: the client gave the call up; the log knows.
        """
        call.task = asyncio.current_task()
        self.open.add(call)
        self.idle.clear()
        try:
            await self._run_work(call)
            call.leave()
            await self._run(call, self._audit_out)
            await self._run(call, self._receipt)
        except asyncio.CancelledError:
            call.leave()
            if call.refusal is None:
                call.refusal = cancelled()
            self._record_cancelled(call)
            raise
        finally:
            call.leave()
            self.open.discard(call)
            if not self.open:
                self.idle.set()
            self._report(call)

    async def _run_work(self, call: Call) -> None:
        """Run stages 1 to 7; put into `call.refusal` what ended them early."""
        try:
            await self._run(call, self._authenticate)
            await self._receive(call)
            for stage in self._admission:
                await self._run(call, stage)
            async with asyncio.timeout_at(call.deadline):
                await self._answer(call)
        except asyncio.CancelledError:
            call.cancel_work()
            # The server itself ended it: a revoked certificate, or the end of the drain.
            if call.ended_by_server is None or call.task is None:
                raise
            call.task.uncancel()
            call.refusal = call.ended_by_server
        except Exception as error:
            call.cancel_work()
            call.refusal = as_refusal(error)
            if call.refusal.code in _UNEXPECTED:
                # Type and place only: the text of the error could quote the request.
                _LOG.error(
                    "internal error: %s at %s",
                    call.refusal.detail,
                    _place(error),
                    extra={"request_id": call.request_id},
                )

    async def _receive(self, call: Call) -> None:
        """Receive the request, now that its sender is known."""
        if call.receive is None or call.principal is None:
            return
        call.request = await self._intake.receive(call.principal.spiffe_id, call.receive)
        if call.time_left is not None:
            call.time_left -= call.elapsed()

    async def _answer(self, call: Call) -> None:
        dispatch, filter_out = self._work
        await self._run(call, dispatch)
        answer: Any = call.answer
        async with aclosing(answer):
            await self._run(call, filter_out)

    async def _run(self, call: Call, stage: Stage) -> None:
        pending: Awaitable[None] | None = stage(call)
        if pending is not None:
            await pending
        call.stages.append(stage.name)

    def _record_cancelled(self, call: Call) -> None:
        """Put the end on record without waiting: nobody is there any more to wait for it."""
        if call.spec.unaudited_because:
            return
        try:
            self._audit_out.record(call)
        except Exception as error:
            _LOG.error(
                "an entry could not be written: %s",
                type(error).__name__,
                extra={"request_id": call.request_id},
            )

    def _report(self, call: Call) -> None:
        self.parts.metrics.observe(call)
        refusal = call.refusal
        if refusal is not None and not call.only_counted and _LOG.isEnabledFor(logging.INFO):
            _LOG.info(
                "call ended: %s",
                refusal.reason,
                extra={
                    "request_id": call.request_id,
                    "principal": call.principal.spiffe_id if call.principal else "",
                    "method": call.spec.name,
                    "model": call.model,
                    "status": refusal.code.name,
                    "detail": refusal.detail,
                },
            )

    def record_counts(self, *, all_of_them: bool = False) -> None:
        """Put the refusals without an entry of their own on record, those that are due."""
        if not self.parts.log.healthy:
            return
        for refused in self.parts.denials.due(all_of_them=all_of_them):
            self.parts.log.append(counted_entry(refused))
            _LOG.warning(
                "calls refused beyond those listed: %d",
                refused.count,
                extra={"principal": refused.principal},
            )

    def recheck(self) -> None:
        """End the open calls whose peer is not acceptable any more. Cheap; call it often."""
        for call in list(self.open):
            if call.principal is None:
                continue
            try:
                self._authenticate(call)
            except Refusal as refusal:
                self.end(call, refusal)

    def end(self, call: Call, refusal: Refusal) -> None:
        """End an open call with `refusal`."""
        if call.ended_by_server is None and call.task is not None and call.refusal is None:
            call.ended_by_server = refusal
            call.cancel_work()
            call.task.cancel()


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "?"
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
