"""What a search knows of each candidate, and the only place where it learns more.

Every method first asks the journal: a measurement that is there is not made again. A
candidate that fails (its plan cannot be carried out, its process reports an error) is
remembered as failed, with the reason, and the search goes on. One whose process was killed
is dropped for now, and tried again when the search is. A full disk is not the candidate's
fault and ends the search, which continues later from the journal. Nor is the reference ever
remembered as failed.

A file is believed if it is the one that the journal speaks of, by size and digest; it is made
anew otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from compiler.errors import SearchError
from compiler.files import digest_of
from compiler.progress import Progress
from compiler.tune.bench import Bench, CandidateFailedError, CandidateKilledError
from compiler.tune.candidate import Candidate, Quality, Round, Speed, Trial
from compiler.tune.clock import Clock
from compiler.tune.journal import Entry, Journal
from compiler.words import printable
from security.bundle.fields import FieldError, Fields
from security.strictjson import JsonValue

_MAX_REASON_CHARS: Final = 500
_MOST_BYTES: Final = 2**53 - 1


class Trials:
    """The trials of one search, by candidate."""

    def __init__(self, bench: Bench, journal: Journal, clock: Clock) -> None:
        self._bench = bench
        self._journal = journal
        self._clock = clock
        self._by_digest: dict[str, Trial] = {}
        # Size and digest of the files that this run has seen, by plan.
        self._seen: dict[str, tuple[int, str]] = {}

    @property
    def all(self) -> list[Trial]:
        """All trials, in the order in which they were first asked for."""
        return list(self._by_digest.values())

    def get(self, candidate: Candidate) -> Trial:
        """Return what is known of a candidate; a trial without figures if nothing is."""
        if candidate.digest not in self._by_digest:
            self._by_digest[candidate.digest] = self._remembered(candidate)
        return self._by_digest[candidate.digest]

    def drop(self, trial: Trial, reason: str) -> Trial:
        """Follow a trial no further, and remove its file unless another trial uses it."""
        dropped = replace(trial, dropped=reason)
        self._by_digest[trial.candidate.digest] = dropped
        plan = trial.candidate.plan_digest
        others = (one for one in self.all if one.candidate.plan_digest == plan)
        if all(one.dropped is not None for one in others):
            self._bench.discard(trial.candidate)
            self._seen.pop(plan, None)
        return dropped

    def make(self, candidate: Candidate, progress: Progress) -> Trial:
        """Make a candidate's file; a trial that failed comes back dropped."""
        trial = self.get(candidate)
        if trial.dropped is not None:
            return trial
        try:
            size, digest = self._file(trial, progress)
        except CandidateFailedError as error:
            return self._failed(trial, error)
        if trial.sha256 not in (None, digest):
            return self.drop(trial, "made anew, its file is another than the one that was measured")
        if trial.sha256 is None:
            trial = replace(trial, size_bytes=size, sha256=digest)
            made: dict[str, JsonValue] = {"sha256": digest, "size_bytes": size}
            self._journal.add(Entry("made", candidate.plan_digest, made))
        self._by_digest[candidate.digest] = trial
        return trial

    def _file(self, trial: Trial, progress: Progress) -> tuple[int, str]:
        """Return size and digest of a candidate's file, made where it is not there or not it."""
        plan = trial.candidate.plan_digest
        if plan not in self._seen:
            if trial.sha256 is None:
                # Whatever lies there, nobody answers for it.
                self._bench.discard(trial.candidate)
            found = self._made(trial.candidate, progress)
            if trial.sha256 is not None and found != (trial.size_bytes, trial.sha256):
                self._bench.discard(trial.candidate)
                found = self._made(trial.candidate, progress)
            self._seen[plan] = found
        return self._seen[plan]

    def _made(self, candidate: Candidate, progress: Progress) -> tuple[int, str]:
        with self._clock.step("make"):
            path = self._bench.make(candidate, progress)
        return path.stat().st_size, digest_of(path)

    def judge(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Trial:
        """Make a candidate and judge its quality, on a part of the texts if `quick`."""
        trial = self.get(candidate)
        if trial.dropped is not None:
            return trial
        known = self._quality(candidate, quick=quick)
        if known is None:
            trial = self.make(candidate, progress)
            if trial.dropped is not None:
                return trial
            try:
                with self._clock.step("quick" if quick else "quality"):
                    known = self._bench.quality(candidate, quick=quick, progress=progress)
            except CandidateFailedError as error:
                return self._failed(trial, error)
            value: dict[str, JsonValue] = {"quick": quick, "quality": known.to_dict()}
            self._journal.add(Entry("quality", candidate.plan_digest, value))
        trial = replace(trial, quality=known, quick=quick)
        self._by_digest[candidate.digest] = trial
        return trial

    def time(self, candidates: Sequence[Candidate], progress: Progress) -> None:
        """Time candidates once, beside the reference: one round."""
        ready = [one for one in candidates if self.make(one, progress).dropped is None]
        reference = self._bench.reference
        others = [one for one in ready if one.digest != reference.digest]
        self.make(reference, progress)
        try:
            with self._clock.step("speed"):
                speeds = self._bench.speeds([reference, *others], progress)
        except CandidateFailedError as error:
            self._blame(others, error, progress)
            return
        for candidate, speed in zip([reference, *others], speeds, strict=True):
            self._timed(candidate, Round(speed, speeds[0]))

    def _blame(
        self, group: Sequence[Candidate], error: CandidateFailedError, progress: Progress
    ) -> None:
        """Find who failed in a round, one by one; a reference that fails ends the search.

        The reference is asked first: its failure is nobody else's.
        """
        try:
            if not group:
                raise error
            self._bench.speeds([self._bench.reference], progress)
        except CandidateFailedError as failure:
            raise SearchError(f"the reference cannot be timed: {failure}") from failure
        if len(group) == 1:
            self._failed(self.get(group[0]), error)
            return
        for candidate in group:
            self.time([candidate], progress)

    def _timed(self, candidate: Candidate, result: Round) -> None:
        trial = self.get(candidate)
        value = {"speed": result.speed.to_dict(), "reference": result.reference.to_dict()}
        self._journal.add(Entry("speed", candidate.digest, value))
        self._by_digest[candidate.digest] = replace(trial, rounds=(*trial.rounds, result))

    def _failed(self, trial: Trial, error: CandidateFailedError) -> Trial:
        reason = printable(str(error))[:_MAX_REASON_CHARS]
        passing = isinstance(error, CandidateKilledError)
        if not passing and not self._is_reference(trial.candidate):
            self._journal.add(Entry("failed", trial.candidate.digest, {"reason": reason}))
        return self.drop(trial, f"failed: {reason}")

    def _is_reference(self, candidate: Candidate) -> bool:
        return candidate.digest == self._bench.reference.digest

    def _remembered(self, candidate: Candidate) -> Trial:
        trial = Trial(candidate)
        try:
            for value in self._journal.find("made", candidate.plan_digest):
                made = Fields(dict(value), "made")
                size, digest = made.integer("size_bytes", 0, _MOST_BYTES), made.sha256("sha256")
                trial = replace(trial, size_bytes=size, sha256=digest)
            rounds = []
            for value in self._journal.find("speed", candidate.digest):
                speed = Speed.from_dict(value.get("speed"))
                rounds.append(Round(speed, Speed.from_dict(value.get("reference"), "reference")))
        except FieldError as error:
            raise self._damaged(error) from error
        trial = replace(trial, rounds=tuple(rounds))
        if self._is_reference(candidate):
            return trial
        for value in self._journal.find("failed", candidate.digest):
            return replace(trial, dropped=f"failed: {value.get('reason')}")
        return trial

    def _quality(self, candidate: Candidate, *, quick: bool) -> Quality | None:
        for value in self._journal.find("quality", candidate.plan_digest):
            if value.get("quick") is quick:
                try:
                    return Quality.from_dict(value.get("quality"))
                except FieldError as error:
                    raise self._damaged(error) from error
        return None

    def _damaged(self, error: FieldError) -> SearchError:
        return SearchError(f"{self._journal.path}: is damaged ({error}); remove it to begin again")
