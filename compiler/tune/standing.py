"""Who is worth more time: what a search's trials say of each other so far.

Nothing is measured or dropped here; `search` does both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from compiler.tune.candidate import SETTINGS, Candidate, Trial
from compiler.tune.choose import PREFILL, Load, choose
from compiler.tune.promise import Promise
from compiler.tune.trials import Trials

MOST_TIMED: Final = 14
_FINALISTS: Final = 5
# A step for so many computes more than it reads.
_MANY_CLIENTS: Final = 8
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Survivors:
    """What to time, and how many within the promise did not find a place."""

    candidates: list[Candidate]
    passed_over: int


class Standing:
    """The order among the trials of one search."""

    def __init__(
        self,
        trials: Trials,
        reference: Candidate,
        *,
        promise: Promise,
        load: Load,
        memory_bytes: int | None,
    ) -> None:
        self._trials = trials
        self._reference = reference
        self._promise = promise
        self._load = load
        self._memory_bytes = memory_bytes

    def excess(self, trial: Trial) -> float:
        """Return how far beyond the promise a trial is; infinitely where nobody judged it."""
        return self._promise.worst_excess(trial.quality) if trial.quality else math.inf

    def too_large(self, trial: Trial) -> bool:
        """Tell whether a trial's file, or its process, is larger than the target's memory."""
        if self._memory_bytes is None:
            return False
        peaks = [one.speed.peak_mib * _MIB for one in trial.rounds if one.speed.peak_mib]
        return max([trial.size_bytes or 0, *peaks]) > self._memory_bytes

    def timed(self) -> list[Trial]:
        """Return the files that were timed, without those of other settings."""
        alive = (one for one in self._trials.all if one.rounds and one.dropped is None)
        return [one for one in alive if one.candidate.family != SETTINGS]

    def ranked(self) -> tuple[list[Candidate], list[Candidate]]:
        """Return what keeps the promise, fastest first, and what breaks it, closest first."""
        kept = [one for one in self.timed() if self.excess(one) == 0]
        kept.sort(key=lambda one: -self._load.gain(one))
        judged = [one for one in self._trials.all if one.quality and not one.quick]
        left = [one for one in judged if self.excess(one) > 0]
        left.sort(key=self.excess)
        return [one.candidate for one in kept], [one.candidate for one in left]

    def finalists(self) -> list[Candidate]:
        """Return the reference, the fastest that keep the promise, and the rest of the front."""
        kept, _ = self.ranked()
        wanted = [self._reference, *kept[:_FINALISTS]]
        if kept:
            choice = choose(self.timed(), self._promise, self._load)
            wanted += [one.candidate for one in choice.front]
        return list({one.digest: one for one in wanted}.values())

    def survivors(self) -> Survivors:
        """Return what to time: the reference, what keeps the promise, then what nearly does.

        Of these the smallest, which read the least; where a step computes more than it reads
        (prompts, many clients), the smallest and the largest by turns, as the wide formats are
        those that unpack quickest.
        """
        alive = [one for one in self._trials.all if one.dropped is None and one.quality]
        alive.sort(key=lambda one: one.size_bytes or 0)
        first = [one for one in alive if one.candidate.digest == self._reference.digest]
        others = [one for one in alive if one.candidate.digest != self._reference.digest]
        kept = self._by_turns([one for one in others if self.excess(one) == 0])
        beyond = [one for one in others if self.excess(one) > 0]
        found = [one.candidate for one in (*first, *kept, *beyond)]
        return Survivors(found[:MOST_TIMED], max(0, len(first) + len(kept) - MOST_TIMED))

    def _by_turns(self, trials: list[Trial]) -> list[Trial]:
        if self._load.kind != PREFILL and (self._load.clients or 1) < _MANY_CLIENTS:
            return trials
        half = -(-len(trials) // 2)
        pairs = zip_longest(trials[:half], reversed(trials[half:]))
        return [one for pair in pairs for one in pair if one is not None]
