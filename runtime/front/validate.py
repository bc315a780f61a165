"""Checks of single fields, shared by the services. Each raises a Refusal naming the field."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.front.errors import Refusal, invalid


def require_text(field: str, text: str, max_bytes: int) -> None:
    """Refuse an empty text, one with a NUL, and one over `max_bytes` of UTF-8."""
    if not text:
        raise invalid(field, "must not be empty", "EMPTY_TEXT")
    if "\0" in text:
        raise invalid(field, "must not hold a NUL character", "NUL_IN_TEXT")
    # Most texts are far below the limit: count bytes only when characters could exceed it.
    if len(text) * 4 > max_bytes and len(text.encode()) > max_bytes:
        raise invalid(field, f"is over {max_bytes} bytes", "TEXT_TOO_LONG")


def require_texts(field: str, texts: Sequence[str], max_count: int, max_bytes: int) -> None:
    """Refuse no texts, too many, and any that `require_text` refuses."""
    require_count(field, len(texts), max_count)
    for index, text in enumerate(texts):
        require_text(f"{field}[{index}]", text, max_bytes)


def require_count(field: str, count: int, max_count: int) -> None:
    """Refuse an empty list and one over `max_count`."""
    if not count:
        raise invalid(field, "must not be empty", "EMPTY_LIST")
    if count > max_count:
        raise invalid(field, f"has more than {max_count} items", "TOO_MANY_ITEMS")


def require_range(
    field: str,
    value: float,
    low: float,
    high: float,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Refuse a number outside the range; NaN is outside every range."""
    above = low < value if low_open else low <= value
    below = value < high if high_open else value <= high
    if not (above and below):
        left, right = "(" if low_open else "[", ")" if high_open else "]"
        raise invalid(field, f"must be in {left}{low:g}, {high:g}{right}", "OUT_OF_RANGE")


def wrong_task(task: str, wanted: str) -> Refusal:
    """Return the refusal of a method on a model of another task."""
    return invalid("model", f"is of task {task}; this method needs {wanted}", "WRONG_TASK")
