"""From a pattern as written in the policy to the one that is matched.

1. Characters outside ASCII become their normalised form, since the text they meet
   is normalised too.
2. An unbounded repetition is refused, or, where the rule states how long a match
   may be, limited to that length: a stream can only be held back for a match whose
   length is bounded.

Refuses syntax that RE2 and Python's parser (which measures the pattern) read
differently, so that the two always speak of the same language.
"""

from __future__ import annotations

import re

from runtime.filters.normalize import fold_char

# RE2 refuses larger counts.
MAX_REPEAT = 1000
_UNBOUNDED = re.compile(r"\{(\d+),\}")
_REFUSED = {
    "[[:": "POSIX classes; write the characters out",
    "{,": "'{,n}'; write '{0,n}'",
    r"\Q": r"'\Q'; use literals",
    r"\C": r"'\C'",
    r"\p": r"'\p'; write the characters out",
    r"\P": r"'\P'; write the characters out",
    "(?#": "comments",
}


class RuleError(Exception):
    """A rule cannot be enforced; the message says why and what to write instead."""


def _folded(char: str, inside_class: bool) -> str:
    form = fold_char(char)
    if inside_class and len(form) != 1:
        raise RuleError(f"{char!r} in a class never appears in normalised text")
    if not form:
        raise RuleError(f"U+{ord(char):04X} never appears in normalised text")
    escaped = re.escape(form)
    return escaped if inside_class or len(form) == 1 else f"(?:{escaped})"


def rewrite(pattern: str, max_match_chars: int | None) -> str:
    """Return `pattern` over normalised text, with every repetition bounded.

    Raises:
        RuleError: the pattern is unbounded and `max_match_chars` is None, or it
            uses syntax that cannot be measured.
    """
    for text, what in _REFUSED.items():
        if text in pattern:
            raise RuleError(f"patterns may not use {what}")
    out: list[str] = []
    inside = False
    index = 0
    while index < len(pattern):
        char = pattern[index]
        step = 1
        if char == "\\" and index + 1 < len(pattern):
            step = 2
            out.append(pattern[index : index + 2])
        elif inside:
            # "]" first in a class, or first after "^", is a member.
            inside = char != "]" or pattern[:index].endswith(("[", "[^"))
            out.append(char if char.isascii() else _folded(char, inside_class=True))
        elif char == "[":
            inside = True
            out.append(char)
        elif char in "*+":
            out.append(_bounded("0" if char == "*" else "1", max_match_chars))
        elif char == "{" and (found := _UNBOUNDED.match(pattern, index)):
            step = len(found.group())
            out.append(_bounded(found.group(1), max_match_chars))
        else:
            out.append(char if char.isascii() else _folded(char, inside_class=False))
        index += step
    return "".join(out)


def _bounded(low: str, limit: int | None) -> str:
    if limit is None:
        raise RuleError(
            "a pattern repeats without bound, so a stream could not be held back for it; "
            "write a bound such as {1,64}, or give the rule max_match_chars"
        )
    return f"{{{low},{max(limit, int(low))}}}"
