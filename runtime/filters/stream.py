"""Filtering a text that arrives in pieces, without letting anything unscanned leave.

Text is held back exactly as long as it could still belong to a match: from the
earliest position where some rule's automaton has a thread alive. When no rule has
one, everything leaves at once.

The steps of `feed`, for each new piece:

1. normalise its characters and append them to the window;
2. move every rule's threads over them (only rules that have threads, or could
   begin with the character);
3. for each rule whose automaton reported an end, let RE2 find the matches that can
   no longer change, that is, those that begin before the rule's oldest thread;
4. release the units that end at or before the oldest thread of all rules, edited
   by the matches found.

Invariants: nothing at or after the oldest thread has left; the window holds every
byte from the oldest thread on, and the character before it, which assertions need.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.filters.normalize import Normalizer, Unit
from runtime.filters.rules import Editor, Rule, RuleSet, Span

_TRIM_BYTES = 4096
# A longer piece is taken in slices, so that the window stays small.
_SLICE_CHARS = 256
# The longest UTF-8 form of the one character that is kept before the window.
_CONTEXT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Released:
    """Text that may leave now.

    Attributes:
        text: what leaves.
        source_bytes: UTF-8 length of the original text this stands for.
        withheld: ranges of the original (UTF-8 offsets from the beginning of the
            whole text) that were replaced.
    """

    text: str
    source_bytes: int
    withheld: tuple[tuple[int, int], ...]


class _Scanner:
    """One rule's threads and how far its matches are settled. Offsets count from the start."""

    def __init__(self, rule: Rule, index: int) -> None:
        self.index = index
        self.rule = rule
        self.threads: dict[int, int] = {}
        self.resume = 0
        self.ended = False

    def step(self, code: int, start: int) -> None:
        self.threads, ended = self.rule.automaton.step(self.threads, code, start)
        self.ended = self.ended or ended

    def oldest(self, end: int) -> int:
        """Return where the oldest match that is still open begins; `end` if there is none."""
        return min(self.threads.values(), default=end)

    def settle(self, window: bytes, base: int, *, final: bool) -> list[Span]:
        """Return the matches that can no longer change; `final` when no text follows.

        After a match the threads are run on from its end only as far as it takes to
        see that the next match is settled, so each character is read again at most
        as often as matches overlap what was held back for them.
        """
        spans: list[Span] = []
        end = at = base + len(window)
        while self.ended:
            match = self.rule.expression.search(window, self.resume - base)
            if match is None:
                break
            start = base + match.start()
            if not final:
                at = self._walk(window, base, at, start)
                if self.oldest(at) <= start:
                    # Undecided. To be searched again when more text came.
                    return spans
            spans.append(Span(start, self.index, base + match.end()))
            self.resume = at = base + match.end()
            self.threads = {}
        if final:
            self.threads = {}
        else:
            self._walk(window, base, at, end)
        self.ended = False
        self.resume = self.oldest(end)
        return spans

    def _walk(self, window: bytes, base: int, at: int, start: int) -> int:
        """Run the threads on from `at` until none begins at or before `start`.

        Returns:
            Where they are: behind that character, or at the end of the window.
        """
        end = base + len(window)
        while at < end and self.oldest(at) <= start:
            size = _width(window[at - base])
            char = window[at - base : at - base + size].decode()
            self.step(ord(char), at)
            at += size
        return at


def _width(lead: int) -> int:
    """Return how many bytes a UTF-8 character has that begins with `lead`."""
    if lead < 0xC0:
        return 1
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


class StreamFilter:
    """Applies a rule set to one text in pieces. Not thread safe."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._normalizer = Normalizer()
        self._scanners = [_Scanner(rule, index) for index, rule in enumerate(rules.rules)]
        # Those that have threads, or ends to look at.
        self._active: set[int] = set()
        self._editor = Editor(rules.rules)
        self._window = bytearray()
        self._base = 0
        self._units: list[Unit] = []
        self._last = (0, 0)
        self._size = 0
        self._source_bytes = 0

    @property
    def blocked(self) -> bool:
        """Whether a rule ended the text; nothing leaves after that."""
        return self._editor.blocked

    @property
    def verdicts(self) -> tuple[str, ...]:
        """ "name:action" of each rule that matched in what was released."""
        return tuple(self._editor.verdicts)

    @property
    def held(self) -> bool:
        """Whether text waits for what follows it."""
        return bool(self._units)

    def feed(self, text: str) -> Released:
        """Take a piece in; return what may leave."""
        parts = []
        for begin in range(0, len(text), _SLICE_CHARS):
            if self.blocked:
                break
            for char, form in self._normalizer.feed(text[begin : begin + _SLICE_CHARS]):
                self._append(char, form)
            parts.append(self._release(final=False))
        return Released(
            "".join(part.text for part in parts),
            sum(part.source_bytes for part in parts),
            tuple(span for part in parts for span in part.withheld),
        )

    def finish(self) -> Released:
        """Say that the text is complete; return the rest of it."""
        return self._release(final=True)

    def _append(self, char: str, form: bytes) -> None:
        """Steps 1 and 2."""
        if not form:
            # Invisible: it shares the range, and so the fate, of the unit before it.
            self._units.append(Unit(char, *self._last))
            return
        self._last = (self._size, self._size + len(form))
        self._units.append(Unit(char, *self._last))
        self._window += form
        for part in form.decode():
            code = ord(part)
            for index in self._active.union(self._rules.starters[min(code, 128)]):
                scanner = self._scanners[index]
                scanner.step(code, self._size)
                if scanner.threads or scanner.ended:
                    self._active.add(index)
                else:
                    self._active.discard(index)
            self._size += len(part.encode())

    def _release(self, *, final: bool) -> Released:
        """Steps 3 and 4."""
        active = [self._scanners[index] for index in sorted(self._active)]
        window = bytes(self._window) if any(s.ended for s in active) else b""
        for scanner in active:
            if scanner.ended:
                self._editor.add(scanner.settle(window, self._base, final=final))
            if not (scanner.threads or scanner.ended):
                self._active.discard(scanner.index)
        oldest = min((s.oldest(self._size) for s in active), default=self._size)
        if final:
            oldest = self._size
        count = 0
        while count < len(self._units) and self._units[count].end <= oldest:
            count += 1
        released = self._edit(self._units[:count])
        del self._units[:count]
        self._trim()
        return released

    def _edit(self, units: list[Unit]) -> Released:
        pieces: list[str] = []
        withheld: list[tuple[int, int]] = []
        before = self._source_bytes
        edited = self._editor.edit(units)
        for unit, piece in zip(units, edited, strict=False):
            pieces.append(piece)
            size = len(unit.text.encode())
            if not self._editor.kept:
                withheld.append((self._source_bytes, self._source_bytes + size))
            self._source_bytes += size
        return Released("".join(pieces), self._source_bytes - before, tuple(withheld))

    def _trim(self) -> None:
        """Forget what no scanner will look at again, when it is worth the copy."""
        if len(self._window) < _TRIM_BYTES:
            return
        needed = min(
            (s.resume if s.ended else s.oldest(self._size) for s in self._scanners),
            default=self._size,
        )
        cut = needed - self._base - _CONTEXT_BYTES
        # Never inside a character: the window is decoded when a scanner restarts.
        while cut > 0 and self._window[cut] & 0xC0 == 0x80:
            cut -= 1
        if cut > 0:
            del self._window[:cut]
            self._base += cut
        for scanner in self._scanners:
            scanner.resume = max(scanner.resume, needed)
