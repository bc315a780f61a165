"""Token log-probabilities leave in step with the text they belong to, or not at all.

A token's bytes are text too. So where rules apply, a token leaves only when all of
its bytes were released, and never when a rule replaced one of them. Alternatives are
withheld altogether where a rule blocks or redacts: " bomb" is harmless by itself, and
is not after "make a". Tokens whose bytes are not exactly the
text they came with (cut off by a stop string, for one) were not scanned: they and
all after them stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from casemate.pb.casemate.v1 import text_pb2
from runtime.filters.rules import RuleSet
from runtime.filters.stream import Released


class LogprobGate:
    """Holds the tokens of one answer until their text has been released."""

    def __init__(self, rules: RuleSet) -> None:
        self._withholds = any(rule.action != "flag" for rule in rules.rules)
        self._waiting: deque[tuple[int, int, text_pb2.TokenLogprob]] = deque()
        self._source = bytearray()
        self._queued_to = 0
        self._released_to = 0
        self._withheld: deque[tuple[int, int]] = deque()
        self._misaligned = False

    def add(self, text: str, tokens: Iterable[text_pb2.TokenLogprob]) -> None:
        """Take a piece of the answer in, before it is filtered."""
        self._source += text.encode()
        for token in tokens:
            end = self._queued_to + len(token.token)
            self._waiting.append((self._queued_to, end, token))
            self._queued_to = end

    def release(self, released: Released) -> list[text_pb2.TokenLogprob]:
        """Return the tokens that may leave with `released`."""
        self._released_to += released.source_bytes
        self._withheld.extend(released.withheld)
        leaving = []
        while self._waiting and self._waiting[0][1] <= self._released_to:
            start, end, token = self._waiting.popleft()
            if self._source[start:end] != token.token:
                self._misaligned = True
            if not self._misaligned and not self._is_withheld(start, end):
                leaving.append(self._screened(token))
        return leaving

    def _is_withheld(self, start: int, end: int) -> bool:
        while self._withheld and self._withheld[0][1] <= start:
            self._withheld.popleft()
        return any(low < end and start < high for low, high in self._withheld)

    def _screened(self, token: text_pb2.TokenLogprob) -> text_pb2.TokenLogprob:
        if not self._withholds or not token.alternatives:
            return token
        return text_pb2.TokenLogprob(token=token.token, logprob=token.logprob)
