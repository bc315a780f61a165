"""Spend the time where it decides: quality first, speed for what is left, then refine.

1. Every seed is made and judged, at first on a part of the texts: what is far from the
   promise is ruined, and no time is spent on how fast it is wrong.
2. What keeps the promise, or misses it by little (so that the front shows what a looser
   promise would buy), is timed: rounds in which each candidate runs soon after the
   reference, since only ratios within a few minutes are stable.
3. Around the best, finer mixes are made, judged and timed.
4. The finalists get more rounds, until each has its median and spread.
5. The chosen file is run with other settings. They are advice and never chosen: a bundle
   carries a file, and not how it is run.

Each stage may use a share of the budget that preparing left. One that runs out of time begins
no more steps, says so, and the next stage begins; a step that goes on far beyond is ended, unless
it is the first round of timing.
Everything measured is in the journal at once, so an interrupted search goes on where it was.
The search never chooses what breaks the promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from compiler.errors import SearchError
from compiler.progress import Progress, silent
from compiler.tune.bench import Bench, Space
from compiler.tune.candidate import SETTINGS, Candidate, Trial
from compiler.tune.choose import Choice, Load, choose, settings_advice
from compiler.tune.clock import Clock, OutOfTimeError
from compiler.tune.journal import Journal
from compiler.tune.promise import Promise
from compiler.tune.standing import MOST_TIMED, Standing
from compiler.tune.trials import Trials

# Shares of the budget at whose end a stage must stop.
_SEEDS, _FIRST, _REFINED, _FINAL, _LAST = 0.45, 0.65, 0.82, 0.94, 1.0
# What a step that began in time may go beyond its stage, so that the next has its time.
_GRACE: Final = 0.1
# A part of the texts tells within a factor of two: beyond this excess nothing is saved.
_RUINED_QUICKLY: Final = 2.0
# What misses the promise by more than the bound itself is not timed.
_TIMED_EXCESS: Final = 1.0
_ROUND_OF: Final = 4
_REFINEMENTS: Final = 2
_MIB: Final = 1 << 20
_TOO_LARGE: Final = "needs more memory than the target has"


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What to search for.

    Attributes:
        promise: the quality to keep.
        load: what to be fast at.
        folder: the work folder: journal and candidates' files.
        budget_seconds: time for this run of the search; None for no limit.
        rounds: of speed for each finalist.
        memory_bytes: what the target has; candidates that need more are not chosen.
    """

    promise: Promise
    load: Load
    folder: Path
    budget_seconds: float | None = None
    rounds: int = 3
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        reference: the model as it was given.
        trials: all candidates, also those that were dropped.
        choice: the chosen one, the front, and all within the promise.
        seconds: what this run of the search took.
        notes: what was cut short, for people.
        advice: how fast the chosen file is with other settings, in words.
    """

    reference: Trial
    trials: tuple[Trial, ...]
    choice: Choice
    seconds: float
    notes: tuple[str, ...] = field(default=())
    advice: tuple[str, ...] = field(default=())


def search(
    bench: Bench, space: Space, request: SearchRequest, progress: Progress = silent
) -> SearchResult:
    """Find the form of a model that is fastest within a promise.

    Args:
        bench: makes, judges and times candidates of one source.
        space: says which are worth trying.
        request: what is promised, for which load, and how long it may take.
        progress: told what is going on and how much of the expected time is over.

    Raises:
        PromiseError: no candidate keeps the promise; names the closest.
        SearchError: nothing could be timed, or the journal is damaged or in use.
        OSError: the disk is full; run it again to go on.
    """
    with Journal(request.folder, bench.context) as journal:
        return _Search(bench, space, request, journal, progress).run()


class _Search:
    def __init__(
        self,
        bench: Bench,
        space: Space,
        request: SearchRequest,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._bench, self._space, self._request = bench, space, request
        self._clock = Clock(request.budget_seconds)
        self._trials = Trials(bench, journal, self._clock)
        self._standing = Standing(
            self._trials,
            bench.reference,
            promise=request.promise,
            load=request.load,
            memory_bytes=request.memory_bytes,
        )
        self._progress = progress
        self._pending: dict[str, int] = {}
        self._done = 0.0
        self._notes: list[str] = []

    def run(self) -> SearchResult:
        reference = self._bench.reference
        self._say("preparing the reference")
        self._bench.prepare(self._within_step("preparing the reference"))
        trial = self._trials.judge(reference, quick=False, progress=self._within_step("reference"))
        self._check_reference(trial)
        self._clock.prepared()
        self._judge(self._space.seeds(), _SEEDS, "first candidates")
        self._time(self._survivors(), 1, _FIRST, "first round")
        for _ in range(_REFINEMENTS):
            self._judge(self._refined(), _REFINED, "refinement")
            self._time(self._survivors(), 1, _REFINED, "refinement")
        self._time_finalists()
        self._run_differently()
        return self._result()

    def _check_reference(self, trial: Trial) -> None:
        if trial.dropped is not None or trial.quality is None:
            raise SearchError(f"the reference cannot be measured: {trial.dropped}")
        promise = self._request.promise
        if not promise.measurable(trial.quality):
            raise SearchError(
                f"nothing of the promise ({promise.name}) can be measured for this source: give "
                "labelled examples or texts, or promise a figure that it has"
            )
        if missing := promise.unmeasured(trial.quality):
            raise SearchError(
                f"{', '.join(one.name for one in missing)}: this source has no such figure "
                f"({', '.join(one.words for one in missing)}); an accuracy needs labelled examples"
            )

    def _refined(self) -> list[Candidate]:
        """Return what to try around the best; nothing where looking for it takes too long."""
        kept, left = self._standing.ranked()
        inner = self._clock.bounded(self._within_step("refinement"), _REFINED)
        try:
            # Ranking tensors makes and judges several files.
            if self._clock.allows(_REFINED, self._clock.expected("quality")):
                return self._space.refine(kept, left, inner)
        except OutOfTimeError:
            pass
        self._note("refinement: tensors were not ranked for time")
        return []

    def _judge(self, candidates: Sequence[Candidate], share: float, stage: str) -> None:
        """Judge the quality of candidates; those that are ruined are dropped."""
        new = [one for one in candidates if self._trials.get(one).quality is None]
        for number, candidate in enumerate(new):
            self._pending = self._expected(len(new) - number)
            steps = sum(self._clock.expected(kind) for kind in ("make", "quick", "quality"))
            if not self._clock.allows(share, steps):
                self._note(f"{stage}: {len(new) - number} candidates were not tried for time")
                return
            self._say(f"quality {number + 1} of {len(new)}: {candidate.label}")
            try:
                self._judge_one(candidate, min(_LAST, share + _GRACE))
            except OutOfTimeError:
                self._trials.drop(self._trials.get(candidate), "not judged for time")
                self._note(f"{stage}: {len(new) - number} candidates were not tried for time")
                return

    def _judge_one(self, candidate: Candidate, share: float) -> None:
        promise = self._request.promise
        inner = self._clock.bounded(self._within_step(candidate.label), share)
        if self._bench.has_quick:
            trial = self._trials.judge(candidate, quick=True, progress=inner)
            if trial.quality and promise.worst_excess(trial.quality) > _RUINED_QUICKLY:
                broken = "; ".join(promise.broken(trial.quality))
                self._trials.drop(trial, f"ruined, seen on a part of the texts: {broken}")
                return
        trial = self._trials.judge(candidate, quick=False, progress=inner)
        if trial.dropped is not None or trial.quality is None:
            return
        if promise.worst_excess(trial.quality) > _TIMED_EXCESS:
            broken = "; ".join(promise.broken(trial.quality))
            self._trials.drop(trial, f"too far from the promise to be timed: {broken}")
        elif self._standing.too_large(trial):
            self._trials.drop(trial, _TOO_LARGE)

    def _time_finalists(self) -> None:
        """Time the leaders, and whoever leads after that, until all leaders have their rounds.

        After one round the first is often merely lucky, and more rounds of the others put
        another one in front that was timed once.
        """
        rounds = self._request.rounds
        while any(self._wanting(one, rounds) for one in self._standing.finalists()):
            if not self._time(self._standing.finalists(), rounds, _FINAL, "final rounds"):
                return

    def _time(self, candidates: Sequence[Candidate], rounds: int, share: float, stage: str) -> bool:
        """Give each candidate rounds of speed until it has so many, a few at a time.

        Returns whether time was enough.
        """
        while True:
            short = [one for one in candidates if self._wanting(one, rounds)]
            if not short:
                return True
            least = min(len(self._trials.get(one).rounds) for one in short)
            now = [one for one in short if len(self._trials.get(one).rounds) == least]
            group = now[:_ROUND_OF]
            self._pending = {"speed": -(-len(short) // _ROUND_OF) * (rounds - least)}
            if not self._clock.allows(share, self._clock.expected("speed")):
                self._note(f"{stage}: {len(short)} candidates were timed less often for time")
                return False
            self._say(f"{stage}: speed of {', '.join(one.label for one in group)}")
            inner = self._within_step(stage)
            if self._clock.expected("speed"):
                # Without one round that ends there is nothing to choose from.
                inner = self._clock.bounded(inner, _LAST)
            try:
                self._trials.time(group, inner)
            except OutOfTimeError:
                self._note(f"{stage}: {len(short)} candidates were timed less often for time")
                return False
            for one in group:
                trial = self._trials.get(one)
                if trial.dropped is None and self._standing.too_large(trial):
                    self._trials.drop(trial, _TOO_LARGE)

    def _wanting(self, candidate: Candidate, rounds: int) -> bool:
        trial = self._trials.get(candidate)
        return trial.dropped is None and len(trial.rounds) < rounds

    def _survivors(self) -> list[Candidate]:
        """Drop what the target cannot hold, and return what to time of the rest."""
        for one in self._trials.all:
            if one.dropped is None and self._standing.too_large(one):
                self._trials.drop(one, _TOO_LARGE)
        found = self._standing.survivors()
        if found.passed_over:
            self._note(
                f"{found.passed_over} candidates within the promise were not timed: others come "
                "first"
            )
        return found.candidates

    def _run_differently(self) -> None:
        """Time the chosen file with other settings; its quality is that of the file."""
        kept, _ = self._standing.ranked()
        if kept:
            chosen = choose(self._trials.all, self._request.promise, self._request.load).chosen
            others = self._space.settings(chosen.candidate)
            self._judge(others, _LAST, SETTINGS)
            self._time(others, 1, _LAST, SETTINGS)

    def _result(self) -> SearchResult:
        choice = self._checked_choice()
        trials = tuple(self._trials.all)
        reference = self._trials.get(self._bench.reference)
        advice = settings_advice(trials, choice.chosen, self._request.load)
        return SearchResult(
            reference, trials, choice, self._clock.elapsed, tuple(self._notes), advice
        )

    def _checked_choice(self) -> Choice:
        """Choose what can still be made, as it was measured."""
        while True:
            if not self._standing.timed() and any(
                one.dropped == _TOO_LARGE for one in self._trials.all
            ):
                raise SearchError(
                    f"no form of the model that was made fits the target's memory of "
                    f"{(self._request.memory_bytes or 0) // _MIB} MiB"
                )
            choice = choose(self._trials.all, self._request.promise, self._request.load)
            chosen = choice.chosen.candidate
            inner = self._within_step(chosen.label)
            if self._trials.make(chosen, inner).dropped is None:
                return choice

    def _expected(self, judgements: int) -> dict[str, int]:
        rounds = -(-min(MOST_TIMED, judgements + len(self._trials.all)) // _ROUND_OF)
        return {"make": judgements, "quality": judgements, "speed": rounds * 2}

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _say(self, label: str) -> None:
        left = self._clock.left(self._pending)
        if left:
            self._done = max(self._done, self._clock.elapsed / (self._clock.elapsed + left))
        eta = f", about {left / 60:.0f} min left" if left >= 60 else ""
        self._progress(f"{label}{eta}", self._done)

    def _within_step(self, label: str) -> Progress:
        """Return a progress for one step: its labels are told, the fraction is the search's."""

        def told(inner: str, fraction: float) -> None:
            far = f" ({fraction:.0%})" if 0 < fraction < 1 else ""
            self._say(f"{label}: {inner}{far}")

        return told
