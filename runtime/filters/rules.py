"""Rules and their application to a whole text.

A rule is a set of patterns and literals with an action. What a rule matches in a
text is defined on the normalised form, independent of how the text arrives: from
left to right, the longest match at the first position that has one, then on from
its end. Rules do not see each other's matches.

- block: the answer ends before the first unit of the match; an input is refused.
- redact: the units of the match are replaced; overlapping matches become one.
- flag: the match is noted.

Invariant: `RuleSet.apply(text)` and a `StreamFilter` fed the same text in any
pieces give the same text, the same verdicts and the same decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import re2

from runtime.filters.automaton import Automaton, build
from runtime.filters.normalize import Unit, normalize, units_of
from runtime.filters.rewrite import MAX_REPEAT, RuleError, rewrite

ACTIONS = ("block", "redact", "flag")
DIRECTIONS = ("in", "out", "both")
_MAX_PATTERNS = 1000
_MAX_PATTERN_CHARS = 4096
# What RE2 may take for one rule's program and states, and for those of one screen.
_RULE_MEMORY_BYTES = 16 << 20
_SCREEN_MEMORY_BYTES = 64 << 20
_PROBE = b"a"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One compiled rule of the policy."""

    name: str
    action: str
    direction: str
    roles: tuple[str, ...]
    models: tuple[str, ...]
    replacement: str
    expression: Any
    source: str
    automaton: Automaton

    @property
    def verdict(self) -> str:
        """How the audit log names a match of this rule."""
        return f"{self.name}:{self.action}"


@dataclass(frozen=True, slots=True)
class Span:
    """A match: a range of bytes of the normalised text, and the rule's index."""

    start: int
    index: int
    end: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the rules made of a text.

    Attributes:
        text: what may be passed on. After a block: the part before the match.
        verdicts: "name:action" of each rule that matched, in order, once each.
    """

    text: str
    verdicts: tuple[str, ...]
    blocked: bool


def _options(max_memory_bytes: int = _RULE_MEMORY_BYTES) -> Any:
    options = re2.Options()
    options.max_mem = max_memory_bytes
    options.case_sensitive = False
    options.longest_match = True
    options.never_capture = True
    options.log_errors = False
    return options


def compile_rule(
    *,
    name: str,
    patterns: Sequence[str],
    literals: Sequence[str],
    action: str,
    direction: str,
    roles: tuple[str, ...],
    models: tuple[str, ...],
    replacement: str,
    max_match_chars: int | None,
) -> Rule:
    """Compile one rule; raise RuleError when it cannot be enforced on a stream."""
    if not patterns and not literals:
        raise RuleError("needs patterns or literals")
    if len(patterns) + len(literals) > _MAX_PATTERNS:
        raise RuleError(f"more than {_MAX_PATTERNS} patterns and literals")
    if max_match_chars is not None and not 1 <= max_match_chars <= MAX_REPEAT:
        raise RuleError(f"max_match_chars must be 1 to {MAX_REPEAT}")
    sources = [rewrite(_sized(pattern), max_match_chars) for pattern in patterns]
    for literal in literals:
        form = normalize(_sized(literal))
        if not form.strip():
            raise RuleError("a literal has no visible characters")
        sources.append(re2.escape(form))
    automaton = build(sources)
    source = "|".join(f"(?:{text})" for text in sources)
    try:
        expression = re2.compile(source, _options())
    except re2.error:
        raise RuleError("RE2 refuses a pattern (see its syntax: no look-around, no \\1)") from None
    return Rule(name, action, direction, roles, models, replacement, expression, source, automaton)


def _sized(pattern: str) -> str:
    if not pattern or len(pattern) > _MAX_PATTERN_CHARS or "\0" in pattern:
        raise RuleError(f"patterns and literals are 1 to {_MAX_PATTERN_CHARS} characters")
    return pattern


@dataclass(frozen=True, slots=True)
class _Screen:
    """Some rules of a set, matched together in one pass. Indexes are those of the set."""

    indexes: tuple[int, ...]
    patterns: Any

    def matching(self, data: bytes) -> list[int] | None:
        """Return the indexes that match; None when RE2 ran out of memory.

        RE2 then reports no match, so the last pattern is one that matches any text.
        """
        found = self.patterns.Match(data) or ()
        if len(self.indexes) not in found:
            return None
        return [self.indexes[at] for at in found if at < len(self.indexes)]


def _screens(rules: Sequence[Rule], indexes: tuple[int, ...]) -> list[_Screen]:
    """Compile rules into as few screens as RE2's memory allows, by halving."""
    patterns = re2.Set.SearchSet(_options(_SCREEN_MEMORY_BYTES))
    try:
        for index in indexes:
            patterns.Add(rules[index].source)
        patterns.Add("")
        patterns.Compile()
        screen = _Screen(indexes, patterns)
        if screen.matching(_PROBE) is not None:
            return [screen]
    except re2.error:
        # Too large together: the halves may do.
        pass
    if len(indexes) == 1:
        raise RuleError(f"rule {rules[indexes[0]].name!r} is too large to be matched")
    middle = len(indexes) // 2
    return _screens(rules, indexes[:middle]) + _screens(rules, indexes[middle:])


class RuleSet:
    """The rules that apply to one role, model and direction.

    Raises:
        RuleError: RE2 cannot hold one of them.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._screens = _screens(self.rules, tuple(range(len(self.rules)))) if rules else []
        # For each ASCII character, the rules that could begin with it; and for all others.
        self.starters: list[tuple[int, ...]] = [
            tuple(
                index
                for index, rule in enumerate(self.rules)
                if any(code in rule.automaton.sets[state] for state in rule.automaton.first)
            )
            for code in range(129)
        ]

    def matching(self, data: bytes) -> list[int]:
        """Return the indexes of the rules that match somewhere in normalised bytes. One pass."""
        found: list[int] = []
        for screen in self._screens:
            some = screen.matching(data)
            if some is None:
                # Slower, and without a limit on memory that could hide a match.
                some = [i for i in screen.indexes if self.rules[i].expression.search(data)]
            found.extend(some)
        return sorted(found)

    def spans(self, data: bytes) -> list[Span]:
        """Return every match in the whole normalised text, by start and then rule."""
        found: list[Span] = []
        for index in self.matching(data):
            found.extend(
                Span(match.start(), index, match.end())
                for match in self.rules[index].expression.finditer(data)
            )
        found.sort(key=lambda span: (span.start, span.index))
        return found

    def apply(self, text: str, *, refuse: bool = False) -> Outcome:
        """Filter a whole text. Linear time; texts without a match take the short way.

        Args:
            refuse: nothing of a text with a blocked match is wanted, as for an input:
                its outcome has no text, and the verdicts up to that match.
        """
        data = normalize(text).encode()
        firsts = self._firsts(data)
        actions = {self.rules[span.index].action for span in firsts}
        if not actions - {"flag"}:
            return Outcome(text, self._verdicts(firsts), blocked=False)
        if refuse and "block" in actions:
            end = next(n for n, s in enumerate(firsts) if self.rules[s.index].action == "block")
            return Outcome("", self._verdicts(firsts[: end + 1]), blocked=True)
        editor = Editor(self.rules)
        editor.add(self.spans(data))
        pieces = list(editor.edit(units_of(text)))
        return Outcome("".join(pieces), tuple(editor.verdicts), editor.blocked)

    def _firsts(self, data: bytes) -> list[Span]:
        """Return the first match of each rule that has one, by start and then rule."""
        found = []
        for index in self.matching(data):
            match = self.rules[index].expression.search(data)
            if match is not None:
                found.append(Span(match.start(), index, match.end()))
        return sorted(found, key=lambda span: (span.start, span.index))

    def _verdicts(self, spans: Sequence[Span]) -> tuple[str, ...]:
        return tuple(self.rules[span.index].verdict for span in spans)


class Editor:
    """Turns units and the matches that touch them into the text that may leave.

    Invariant: a unit is given to `edit` only when every match that begins before
    the unit's end has been given to `add`.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._spans: list[Span] = []
        self._next = 0
        self._redacted_to = 0
        # In the order of their first match.
        self.verdicts: dict[str, None] = {}
        self.blocked = False
        self.kept = False

    def add(self, spans: Sequence[Span]) -> None:
        """Take matches in; they are ordered by start and rule."""
        if spans:
            pending = self._spans[self._next :]
            self._spans = sorted([*pending, *spans], key=lambda s: (s.start, s.index))
            self._next = 0

    def edit(self, units: Iterable[Unit]) -> Iterator[str]:
        """Yield what leaves for each unit; `kept` tells whether it was the unit itself."""
        for unit in units:
            piece = None if self.blocked else self._replacement(unit)
            if piece is None:
                return
            # A unit with no visible form is invisible text at the very beginning.
            self.kept = unit.start >= self._redacted_to
            yield piece + unit.text if self.kept else piece

    def _replacement(self, unit: Unit) -> str | None:
        """Take in the matches that begin before the unit's end.

        Returns:
            The text they put here; None when one of them ends the text.
        """
        if self._next == len(self._spans) or self._spans[self._next].start >= unit.end:
            return ""
        put = ""
        touching: list[Span] = []
        while self._next < len(self._spans) and self._spans[self._next].start < unit.end:
            touching.append(self._spans[self._next])
            self._next += 1
        if any(self._rules[span.index].action == "block" for span in touching):
            self.blocked = True
        for span in touching:
            rule = self._rules[span.index]
            self.verdicts.setdefault(rule.verdict)
            if rule.action == "redact":
                if unit.start >= self._redacted_to:
                    put = put or rule.replacement
                self._redacted_to = max(self._redacted_to, span.end)
        return None if self.blocked else put
