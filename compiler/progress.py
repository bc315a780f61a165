"""How a part of the compiler says how far it is.

A part that knows its fraction takes a Progress and calls it with a short label and a number between
0 and 1; a part that knows only its steps takes a Report (compiler/bundling/plan.py), a label alone.
Labels name files, tensors and steps, never text of a calibration or of training.

A Progress may raise, to end the work that calls it: at an interruption, or when the time for a
step is over. Whoever calls one leaves nothing half done then. A whole made of parts gives each
part a share of its own bar (`part`), so the bar never runs backwards.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""(label, fraction): the fraction of this part that is done, 0..1."""


def silent(label: str, fraction: float) -> None:
    """A Progress that shows nothing."""
    del label, fraction


def part(progress: Progress, start: float, end: float) -> Progress:
    """A Progress for one part of a whole: its 0..1 becomes start..end of the whole's."""
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(f"a part lies between 0 and 1, not {start}..{end}")

    def scaled(label: str, fraction: float) -> None:
        progress(label, start + (end - start) * min(max(fraction, 0.0), 1.0))

    return scaled


def labels(progress: Progress, total: int) -> Callable[[str], None]:
    """A Report over a Progress: `total` steps of equal length, one for each label."""
    done = 0

    def report(label: str) -> None:
        nonlocal done
        progress(label, min(done / max(total, 1), 1.0))
        done += 1

    return report
