"""Stage 4: the rules for what comes in.

The commitment is made here too, since it covers the texts as the client sent them,
before anything is redacted.
"""

from __future__ import annotations

import grpc

from runtime.front.call import Call
from runtime.front.errors import Refusal
from runtime.front.stages.base import Parts
from security.audit.commitment import REQUEST_DOMAIN, Committer, new_key


class FilterIn:
    """Sets `call.rules_in`, `call.rules_out`, the commitment, and redacts the request."""

    name = "filter_in"

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, call: Call) -> None:
        """Commit to the request, then apply the rules; raise PERMISSION_DENIED on a block."""
        self._commit(call)
        if call.policy is None or call.role is None:
            return
        handler = call.spec.handler
        texts = list(handler.texts(call.request))
        if call.served is None and not texts:
            # No model works for this call: there is nothing to filter either way, and
            # the model's name is only what the client wrote.
            return
        call.rules_in = call.policy.rule_set(call.role.name, call.model, "in")
        call.rules_out = call.policy.rule_set(call.role.name, call.model, "out")
        if call.rules_in is None:
            return
        outcomes = [call.rules_in.apply(text, refuse=True) for text in texts]
        for outcome in outcomes:
            call.verdicts.extend(v for v in outcome.verdicts if v not in call.verdicts)
        if any(outcome.blocked for outcome in outcomes):
            raise Refusal(
                grpc.StatusCode.PERMISSION_DENIED,
                "BLOCKED_BY_POLICY",
                "a rule of the policy refuses this request",
            )
        redacted = [outcome.text for outcome in outcomes]
        if redacted != texts:
            handler.replace_texts(call.request, redacted)

    def _commit(self, call: Call) -> None:
        if call.spec.unaudited_because:
            return
        call.commitment_key = new_key()
        committer = Committer(call.commitment_key, REQUEST_DOMAIN)
        for part in call.spec.handler.request_parts(call.request):
            committer.add(part)
        call.request_commitment = committer.digest().hex()
