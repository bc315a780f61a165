"""The text of one answer, from token bytes to what may leave.

Two things hold text back: an unfinished UTF-8 character, and a stop string that may
be forming. A token's log-probability names the token's bytes, so it leaves no earlier
than the last character that the token is a part of, and not at all when that
character does not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from runtime.engine.detokenize import Detokenizer
from runtime.engine.stops import StopMatcher
from runtime.engine.types import TokenLogprob


class Answer:
    """Turns tokens into deliverable text and log-probabilities."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer()
        self._matcher = StopMatcher(stops)
        self._decoded_chars = 0
        self._delivered_chars = 0
        self._held_logprobs: deque[tuple[int, TokenLogprob]] = deque()

    @property
    def stopped(self) -> bool:
        """Whether a stop string appeared; nothing more may be pushed then."""
        return self._matcher.stopped

    def push(
        self, piece: bytes, logprob: TokenLogprob | None
    ) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Take a token; returns the text and the log-probabilities that may leave now."""
        text = self._detokenizer.push(piece)
        self._decoded_chars += len(text)
        if logprob is not None:
            # Its last character is the next one if bytes of that are still held.
            needed = self._decoded_chars + (1 if self._detokenizer.holds_bytes else 0)
            self._held_logprobs.append((needed, logprob))
        return self._release(self._matcher.push(text))

    def finish(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What was held, when the answer ends without a stop string; nothing otherwise."""
        if self.stopped:
            self._held_logprobs.clear()
            return "", ()
        tail = self._detokenizer.finish()
        self._decoded_chars += len(tail)
        text = self._matcher.push(tail)
        if not self.stopped:
            text += self._matcher.finish()
        return self._release(text)

    def _release(self, text: str) -> tuple[str, tuple[TokenLogprob, ...]]:
        self._delivered_chars += len(text)
        ready = []
        while self._held_logprobs and self._held_logprobs[0][0] <= self._delivered_chars:
            ready.append(self._held_logprobs.popleft()[1])
        return text, tuple(ready)
