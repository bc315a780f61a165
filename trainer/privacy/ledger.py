"""The ledger of releases: what has been taken from a data set, and what may be.

A file of JSON lines, docs/formats/privacy-ledger.md. It is only ever appended to. Each
update is charged, and the charge is on the disk, before the update is applied; so
whatever happens, the ledger holds at least what was released. What is done again after
a crash is charged again.

Durability: `charge` returns after the line is flushed to the disk; if the disk refuses,
the ledger takes no further charge (what a failed flush left is unknown).
Concurrency: whoever has the ledger open to charge holds it alone, by a lock that the
kernel lets go of however the process ends. `read_ledger` needs no lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from trainer.privacy.event import Event


@dataclass(frozen=True, slots=True)
class Budget:
    """What the owner of a data set allows in all.

    Attributes:
        dataset: the name of the data; a ledger with a budget takes charges for it alone.
        epsilon, delta: that all releases together may reach.
    """

    dataset: str
    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True)
class Head:
    """Where a ledger stands: the number of its lines, and the chain's last link (hex).

    Kept elsewhere (in checkpoints and reports) it shows that lines were cut off the end.
    """

    lines: int
    link: str


class Ledger:
    """A ledger that is open to charge; use as a context manager, or `close` it."""

    @classmethod
    def create(cls, path: Path, budget: Budget | None = None) -> Ledger:
        """Make a new ledger, durably, and open it.

        Raises:
            LedgerError: there is one already, or the folder cannot be written.
        """
        raise NotImplementedError

    @classmethod
    def open(cls, path: Path, *, since: Head | None = None) -> Ledger:
        """Verify a ledger and hold it.

        A last line that a crash tore is charged as if its update had been applied.

        Args:
            path: the file.
            since: a head that was seen before; the ledger must still contain it.

        Raises:
            LedgerError: it is missing, edited, damaged, or held by another run.
        """
        raise NotImplementedError

    @property
    def budget(self) -> Budget | None:
        """What the owner allows; None if no budget was set."""
        raise NotImplementedError

    @property
    def head(self) -> Head:
        """Where the ledger stands."""
        raise NotImplementedError

    def releases(self, dataset: str) -> tuple[Event, ...]:
        """Return all that was charged for a data set, equal mechanisms counted together."""
        raise NotImplementedError

    def begin(self, run_id: str, dataset: str, event: Event) -> None:
        """Announce a run of `event.steps` updates, durably, before its first charge.

        A run that goes on after a stop announces itself again, with what is left to do.

        Raises:
            BudgetExhausted: not all of it fits the budget; nothing was charged.
            LedgerError: the ledger cannot be written, or its budget is for other data.
        """
        raise NotImplementedError

    def charge(self, run_id: str, step: int) -> None:
        """Charge one update, durably; only then may it be applied.

        Args:
            run_id: of the run that was announced last.
            step: updates made before; a step that was charged before is charged again.

        Raises:
            BudgetExhausted: it would exceed the budget; nothing was charged.
            LedgerError: the ledger cannot be written, or the run was not announced.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the ledger."""

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Release:
    """What one run took: for `casemate privacy ledger`.

    Attributes:
        run_id: the run.
        dataset: the data's name.
        event: the mechanism, with the number of updates that were charged.
        replayed: charges among them for a step that had been charged before.
        torn: charges among them for lines that a crash tore.
        began_ms: Unix time of the announcement, milliseconds.
    """

    run_id: str
    dataset: str
    event: Event
    replayed: int
    torn: int
    began_ms: int


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A verified ledger, as it was read."""

    budget: Budget | None
    releases: Sequence[Release]
    head: Head


def read_ledger(path: Path) -> LedgerView:
    """Verify a ledger and return what it holds; a torn last line counts as charged.

    Raises:
        LedgerError: it is missing, edited or damaged.
    """
    raise NotImplementedError
