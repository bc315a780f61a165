"""What a search needs of a backend: make a candidate, judge it, time it.

A bench runs every dangerous step in a process of its own (the packages it is built on do),
so a quantizer that aborts is a failed candidate and not a failed search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from compiler.errors import ChildError, ChildKilledError, QuantizationError, SourceError
from compiler.progress import Progress
from compiler.tune.candidate import Candidate, Quality, Speed
from security.errors import UnsafeModelError
from security.strictjson import JsonValue


class CandidateFailedError(Exception):
    """A candidate cannot be made or run; the message says why, without any text of data."""


class CandidateKilledError(CandidateFailedError):
    """A candidate's process was killed or took too long, which another time it may not."""


@contextmanager
def candidates_fault() -> Iterator[None]:
    """Turn what went wrong with a candidate into its failure; a full disk is not its fault.

    Raises:
        CandidateKilledError: a process was killed.
        CandidateFailedError: it failed otherwise.
    """
    try:
        yield
    except ChildKilledError as error:
        raise CandidateKilledError(str(error)) from error
    except (QuantizationError, ChildError, SourceError, UnsafeModelError) as error:
        raise CandidateFailedError(str(error)) from error


class Bench(Protocol):
    """One source on one backend.

    Concurrency: calls come one at a time. Determinism: `make` gives the same bytes for the
    same plan and versions. Idempotence: each method may be called again for a candidate.
    """

    @property
    def context(self) -> Mapping[str, JsonValue]:
        """All that figures depend on besides the candidate: digests, versions, machine."""
        ...

    @property
    def reference(self) -> Candidate:
        """The model as it was given, as an appliance would run it."""
        ...

    @property
    def has_quick(self) -> bool:
        """Whether judging on a part of the texts takes less time than on all."""
        ...

    def prepare(self, progress: Progress) -> None:
        """Make what all candidates are compared with; called once before the others.

        Raises:
            UsageError: the source or the texts are not usable.
        """
        ...

    def make(self, candidate: Candidate, progress: Progress) -> Path:
        """Return the candidate's file, made if it is not there.

        Raises:
            CandidateFailedError: this plan cannot be carried out.
            OSError: the disk is full or the folder cannot be written.
        """
        ...

    def discard(self, candidate: Candidate) -> None:
        """Remove the candidate's file, if one was made; the source is never removed."""
        ...

    def quality(self, candidate: Candidate, *, quick: bool, progress: Progress) -> Quality:
        """Judge a candidate against the reference.

        Args:
            candidate: one that was made.
            quick: on a part of the texts, to find those that are far off.
            progress: told how far it is.

        Raises:
            CandidateFailedError: it cannot be run.
        """
        ...

    def speeds(self, candidates: Sequence[Candidate], progress: Progress) -> list[Speed]:
        """Time candidates once, one soon after the other, each with its settings.

        Raises:
            CandidateFailedError: one of them cannot be run.
        """
        ...


class Space(Protocol):
    """Which candidates are worth trying."""

    def seeds(self) -> list[Candidate]:
        """Return what is tried first: cheap to make and unlike each other."""
        ...

    def refine(
        self, kept: list[Candidate], left: list[Candidate], progress: Progress
    ) -> list[Candidate]:
        """Return what to try around the best found so far.

        Args:
            kept: candidates within the promise, fastest first.
            left: candidates that were judged and break it, closest first.
            progress: told of each step of what takes time; what it raises ends the call.
        """
        ...

    def settings(self, best: Candidate) -> list[Candidate]:
        """Return other ways to run one candidate's file: threads, batch, cache."""
        ...
