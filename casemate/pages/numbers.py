"""Numbers as people read them: in the terminal and in the report."""

from __future__ import annotations

import math

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """Return a quantity in three digits: 950, 12.3k, 124M, 1.50B."""
    if not math.isfinite(value):
        return str(value)
    for unit, suffix in _SUFFIXES:
        # Half a unit of the last digit: 999,950 is 1.00M, never 1000k.
        if abs(value) >= unit * 0.9995:
            scaled = value / unit
            places = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{places}f}{suffix}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Return bytes in binary units: 512 B, 1.5 KiB, 78.2 GiB."""
    scaled = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(scaled) < 1023.95:
            return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1024
    return f"{scaled:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a time span: 850 ms, 12.3 s, 4 min 05 s, 3 h 20 min, 2 d 4 h."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if hours == 0:
        return f"{minutes} min {rest:02d} s"
    if days == 0:
        return f"{hours} h {minutes_left:02d} min"
    return f"{days} d {hours_left} h"


def clock(seconds: float) -> str:
    """Return a time span as a clock shows it: 0:45, 12:46, 3:20:00."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}:{minutes_left:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def figure(value: float) -> str:
    """Return a measured figure with four significant digits; no exponent near 1."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "-∞"}.get(value, "not a number")
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 1e6 or magnitude < 1e-3:
        return f"{value:.3g}"
    if magnitude >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 3 - math.floor(math.log10(magnitude)))
    return f"{value:.{min(digits, 4)}f}"


def percent(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * share:.1f}%" if math.isfinite(share) else "unknown"
