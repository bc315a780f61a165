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
        """Return the matches that can no longer change; `final` when no text follows."""
        spans: list[Span] = []
        end = base + len(window)
        if final:
            self.threads = {}
        while self.ended:
            match = self.rule.expression.search(window, self.resume - base)
            if match is None:
                self.ended = False
                break
            if base + match.start() >= self.oldest(end):
                break
            spans.append(Span(base + match.start(), self.index, base + match.end()))
            self._restart(window, base, base + match.end(), final=final)
        if not self.ended:
            self.resume = self.oldest(end)
        return spans

    def _restart(self, window: bytes, base: int, position: int, *, final: bool) -> None:
        """Forget threads inside the match before `position`, and run on from there."""
        self.resume = position
        if final:
            return
        self.threads = {}
        for char in window[position - base :].decode():
            self.step(ord(char), position)
            position += len(char.encode())


class StreamFilter:
    """Applies a rule set to one text in pieces. Not thread safe."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._normalizer = Normalizer()
        self._scanners = [_Scanner(rule, index) for index, rule in enumerate(rules.rules)]
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
        if self.blocked:
            return Released("", 0, ())
        for char, form in self._normalizer.feed(text):
            self._append(char, form)
        return self._release(final=False)

    def finish(self) -> Released:
        """Say that the text is complete; return the rest of it."""
        return self._release(final=True)

    def _append(self, char: str, form: bytes) -> None:
        """Steps 1 and 2."""
        if not form:
            # Invisible: it belongs to the unit before it, even if that one has left.
            if self._units:
                self._units[-1].text += char
            else:
                self._units.append(Unit(char, *self._last))
            return
        self._last = (self._size, self._size + len(form))
        self._units.append(Unit(char, *self._last))
        self._window += form
        for part in form.decode():
            code = ord(part)
            starters = self._rules.starters[min(code, 128)]
            for scanner in self._scanners:
                if scanner.threads or scanner.index in starters:
                    scanner.step(code, self._size)
            self._size += len(part.encode())

    def _release(self, *, final: bool) -> Released:
        """Steps 3 and 4."""
        window = bytes(self._window) if any(s.ended for s in self._scanners) else b""
        for scanner in self._scanners:
            if scanner.ended:
                self._editor.add(scanner.settle(window, self._base, final=final))
        oldest = min((s.oldest(self._size) for s in self._scanners), default=self._size)
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
