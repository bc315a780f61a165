"""Which pieces of a text could still become a match: a position automaton.

RE2 answers whether a text matches, not whether more text could make it match.
This module builds, from the same pattern, a Glushkov automaton (one state per
character of the pattern, no empty moves; Glushkov 1961, Berry and Sethi 1986) that
answers the second question exactly, up to two safe approximations: assertions
(\\b, ^, $) are taken to hold, and a class with members outside ASCII is taken to
hold all characters outside ASCII. Both can only hold text back longer.

Refuses patterns with unbounded repetition, and more than `MAX_POSITIONS` states
or `MAX_MOVES` moves between them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from runtime.filters.normalize import fold_char
from runtime.filters.rewrite import RuleError

MAX_POSITIONS = 4000
MAX_MOVES = 100_000
_ASCII = (1 << 128) - 1


def _mask(chars: Iterable[str]) -> int:
    mask = 0
    for char in chars:
        mask |= 1 << ord(char)
    return mask


_DIGITS = _mask("0123456789")
_WORD = _DIGITS | _mask("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
# RE2's \d, \w and \s are ASCII.
_CATEGORIES = {
    sre.CATEGORY_DIGIT: _DIGITS,
    sre.CATEGORY_WORD: _WORD,
    sre.CATEGORY_SPACE: _mask("\t\n\f\r "),
}
_NOT_CATEGORIES = {
    sre.CATEGORY_NOT_DIGIT: _DIGITS,
    sre.CATEGORY_NOT_WORD: _WORD,
    sre.CATEGORY_NOT_SPACE: _mask("\t\n\f\r "),
}


@dataclass(frozen=True, slots=True)
class CharSet:
    """Characters one state accepts: ASCII ones by bit, and whether others too."""

    ascii: int
    other: bool

    def __contains__(self, code: int) -> bool:
        return self.other if code > 127 else bool(self.ascii >> code & 1)


_ANY = CharSet(_ASCII, other=True)


@dataclass(slots=True)
class _Part:
    """A piece of the pattern: how it may begin, how it may end, whether it may be empty."""

    first: list[int]
    last: list[int]
    empty: bool


@dataclass(slots=True)
class Automaton:
    """The states of one rule.

    Attributes:
        sets: for each state, the characters it accepts.
        follow: for each state, the states that may come next.
        first: states a match may begin with.
        accepting: whether a match may end after the state.
        lookahead: the state that waits for the character after a match, or -1.
    """

    sets: list[CharSet] = field(default_factory=list)
    follow: list[list[int]] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    accepting: list[bool] = field(default_factory=list)
    lookahead: int = -1

    def step(self, threads: dict[int, int], code: int, start: int) -> tuple[dict[int, int], bool]:
        """Read one character.

        Args:
            threads: for each state that may come next, the earliest start of such a match.
            code: the character.
            start: its offset, where a new match may begin.

        Returns:
            The new threads, and whether a match may have ended or been confirmed here.
        """
        after: dict[int, int] = {}
        ended = False
        for state, begin in threads.items():
            if code in self.sets[state]:
                ended = ended or self.accepting[state]
                for following in self.follow[state]:
                    if after.get(following, begin) >= begin:
                        after[following] = begin
        for state in self.first:
            if code in self.sets[state]:
                ended = ended or self.accepting[state]
                for following in self.follow[state]:
                    after.setdefault(following, start)
        return after, ended


class _Builder:
    """Walks Python's parse tree of a pattern."""

    def __init__(self) -> None:
        self.automaton = Automaton()
        self.asserts = False
        self.moves = 0

    def position(self, chars: CharSet) -> _Part:
        machine = self.automaton
        if len(machine.sets) >= MAX_POSITIONS:
            raise RuleError(f"its patterns need more than {MAX_POSITIONS} states")
        machine.sets.append(chars)
        machine.follow.append([])
        machine.accepting.append(False)
        index = len(machine.sets) - 1
        return _Part([index], [index], empty=False)

    def join(self, left: _Part, right: _Part) -> _Part:
        self.moves += len(left.last) * len(right.first)
        if self.moves > MAX_MOVES:
            raise RuleError(f"its patterns need more than {MAX_MOVES} moves")
        for state in left.last:
            self.automaton.follow[state].extend(right.first)
        return _Part(
            left.first + right.first if left.empty else left.first,
            right.last + left.last if right.empty else right.last,
            left.empty and right.empty,
        )

    def sequence(self, items: Any) -> _Part:
        part = _Part([], [], empty=True)
        for op, value in items:
            part = self.join(part, self.item(op, value))
        return part

    def branch(self, parts: list[_Part]) -> _Part:
        return _Part(
            [state for part in parts for state in part.first],
            [state for part in parts for state in part.last],
            any(part.empty for part in parts),
        )

    def repeat(self, low: int, high: int, items: Any) -> _Part:
        if high == sre.MAXREPEAT:
            raise RuleError("a pattern repeats without bound")
        # x{2,4} is x x (x (x)?)?: built from the right so that each copy leads to the next only.
        tail = _Part([], [], empty=True)
        for _ in range(high - low):
            tail = self.join(self.sequence(items), tail)
            tail.empty = True
        for _ in range(low):
            tail = self.join(self.sequence(items), tail)
        return tail

    def item(self, op: Any, value: Any) -> _Part:
        chars = _single(op, value)
        if chars is not None:
            return self.position(chars)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            return self.repeat(*value)
        if op is sre.SUBPATTERN:
            return self.sequence(value[-1])
        if op is sre.BRANCH:
            return self.branch([self.sequence(items) for items in value[1]])
        if op is sre.AT:
            self.asserts = True
            return _Part([], [], empty=True)
        raise RuleError(f"a pattern uses {str(op).lower()}, which is not supported")


def _single(op: Any, value: Any) -> CharSet | None:
    """Return the characters of an item that stands for one; None for other items."""
    if op is sre.LITERAL:
        return _literal(value)
    if op is sre.NOT_LITERAL:
        return CharSet(_ASCII & ~_literal(value).ascii, other=True)
    if op is sre.IN:
        return _class(value)
    return _ANY if op is sre.ANY else None


def _literal(code: int) -> CharSet:
    if code > 127:
        if fold_char(chr(code)) != chr(code).lower():
            raise RuleError(f"U+{code:04X} never appears in normalised text")
        return CharSet(0, other=True)
    return CharSet(_mask({chr(code).lower(), chr(code).upper()}), other=False)


def _class(items: Any) -> CharSet:
    mask, other, negate = 0, False, False
    for op, value in items:
        if op is sre.NEGATE:
            negate = True
        elif op is sre.LITERAL:
            mask |= 1 << value if value < 128 else 0
            other = other or value > 127
        elif op is sre.RANGE:
            low, high = value
            mask |= _mask(chr(code) for code in range(low, min(high, 127) + 1))
            other = other or high > 127
        elif value in _CATEGORIES:
            mask |= _CATEGORIES[value]
        else:
            mask |= _ASCII & ~_NOT_CATEGORIES[value]
            other = True
    if negate:
        # Before case is ignored: [^A] must keep every character that RE2 might accept.
        exact = mask & _swap_case(mask)
        return CharSet(_ASCII & ~exact, other=True)
    return CharSet(mask | _swap_case(mask), other)


def _swap_case(mask: int) -> int:
    """Return the mask with the case of its letters exchanged."""
    others = _mask(chr(c).swapcase() for c in range(128) if mask >> c & 1)
    return others


def build(patterns: Iterable[str]) -> Automaton:
    """Build the automaton of the alternatives `patterns`, all bounded.

    Raises:
        RuleError: a pattern cannot be parsed or measured, or matches the empty text.
    """
    builder = _Builder()
    parts: list[_Part] = []
    for pattern in patterns:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                tree = parser.parse(pattern)
        except (re.error, Warning, OverflowError, RecursionError) as error:
            raise RuleError(f"a pattern cannot be read: {error}") from None
        part = builder.sequence(tree)
        if part.empty:
            raise RuleError("a pattern matches the empty text")
        parts.append(part)
    machine = builder.automaton
    whole = builder.branch(parts)
    machine.first = whole.first
    for state in whole.last:
        machine.accepting[state] = True
    if builder.asserts:
        _add_lookahead(machine, whole.last)
    return machine


def _add_lookahead(machine: Automaton, last: list[int]) -> None:
    """Make every end of a match wait for one more character, which an assertion may ask about."""
    machine.sets.append(_ANY)
    machine.follow.append([])
    machine.accepting.append(True)
    machine.lookahead = len(machine.sets) - 1
    for state in last:
        machine.follow[state].append(machine.lookahead)
