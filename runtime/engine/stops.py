"""Stop strings in a text that comes in parts.

An answer ends before the first stop string that is completed; of those completed by
the same character, before the longest. What is delivered does not depend on how the
text was cut: a part that may still become a stop string is held back, and no more
than that.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Scans one answer for its stop strings.

    Cost per push: (held + new characters) x number of stop strings; at most
    `len(longest stop) - 1` characters are ever held.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max((len(stop) for stop in stops), default=0)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that is certain to be delivered; after it `stopped` may be true."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        text = self._held + text
        self._held = ""
        start = self._first_match(text)
        if start is not None:
            self.stopped = True
            return text[:start]
        held = self._open_length(text)
        if held:
            self._held = text[-held:]
            return text[:-held]
        return text

    def finish(self) -> str:
        """What was held and did not become a stop string after all."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> int | None:
        """Where the first completed stop string starts."""
        best: tuple[int, int] | None = None
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0:
                found = (start + len(stop), start)
                best = found if best is None else min(best, found)
        return None if best is None else best[1]

    def _open_length(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
