"""The ledger of releases: what has been taken from a data set, and what may be.

    with Ledger.open(path) as ledger:
        ledger.begin(run_id, "tickets-2026", plan.event)
        ...
        ledger.charge(run_id, step)      # on the disk; only then the update is applied

A file of JSON lines (docs/formats/privacy-ledger.md) that is only ever appended to. Each
update is charged, and the charge is on the disk, before the update is applied; so whatever
happens, the ledger holds at least what was released. What is done again after a crash is
charged again.

Durability and concurrency: `charge` returns after its line is flushed to the disk; whoever
has a ledger open to charge holds it alone (see `ledger_file`). `read_ledger` takes no lock.

What it refuses: a ledger that is missing, edited, damaged or shorter than it was; charges
beyond the owner's budget, or for other data than the budget is for. It cannot notice a
file that was rewritten from its first line, unless a head of it is kept elsewhere.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from trainer.privacy.accounting import steps_within
from trainer.privacy.errors import BudgetExhausted, LedgerError
from trainer.privacy.event import Event
from trainer.privacy.ledger_file import LedgerFile, create_file, read_file
from trainer.privacy.ledger_lines import (
    GENESIS,
    Announced,
    Budget,
    Charged,
    Line,
    Opened,
    Torn,
    Tuned,
    encode,
)
from trainer.privacy.ledger_names import check_dataset, check_run_id, check_unit, unit_words
from trainer.privacy.ledger_state import Head, LedgerState, LedgerView, Release, Tail, read_state

__all__ = ["Budget", "Head", "Ledger", "LedgerView", "Release", "ledger_holds", "read_ledger"]


class Ledger:
    """A ledger that is open to charge; a context manager. Made by `create` and `open`."""

    def __init__(self, file: LedgerFile, state: LedgerState) -> None:
        self._file = file
        self._state = state
        # Updates of the announced run that are known to fit the budget.
        self._allowed = 0

    @classmethod
    def create(cls, path: Path, budget: Budget | None = None) -> Ledger:
        """Make a new ledger, durably, and open it.

        Raises:
            LedgerError: there is one already, or the folder cannot be written.
        """
        data, _ = encode(Opened(budget, _now_ms()), GENESIS)
        create_file(path, data)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path, *, since: Head | None = None) -> Ledger:
        """Verify a ledger and hold it.

        An end that a crash tore is charged as if its update had been applied.

        Args:
            path: the file.
            since: a head that was seen before; the ledger must still contain it.

        Raises:
            LedgerError: it is missing, edited, damaged, shorter than it was, or held by
                another run.
        """
        # 1. Hold the file itself, no link to another.
        file = LedgerFile.hold(path)
        try:
            # 2. Verify all of it, and that nothing was cut off.
            state, tail = read_state(file.read(), str(path))
            _check_since(state, since, path)
            # 3. What a crash left is charged before anything else is.
            ledger = cls(file, state)
            ledger._mend(tail)
        except BaseException:
            file.close()
            raise
        return ledger

    @property
    def budget(self) -> Budget | None:
        """What the owner allows; None if no budget was set."""
        return self._state.budget

    @property
    def head(self) -> Head:
        """Where the ledger stands."""
        return self.view().head

    def view(self) -> LedgerView:
        """Return what the ledger says."""
        return self._state.view()

    def releases(
        self, dataset: str, *, unit: str = "record", user_field: str = "", without: str = ""
    ) -> tuple[Event, ...]:
        """Return what was charged for a data set; see `LedgerView.events`."""
        return self.view().events(dataset, unit=unit, user_field=user_field, without=without)

    def begin(
        self,
        run_id: str,
        dataset: str,
        event: Event,
        unit: str = "record",
        *,
        user_field: str = "",
        tuning: int = 0,
    ) -> None:
        """Announce a run of `event.steps` updates, durably, before its first charge.

        A run that goes on after a stop announces itself again, with what is left to do.
        `tuning` updates of the same mechanism, by tuning runs that are in no ledger, are
        charged with it at once; what was charged of them under `run_id` is not again.

        Raises:
            BudgetExhausted: not all of it fits the budget; nothing was announced.
            LedgerError: the ledger cannot be written, or its budget is for other data or
                another unit.
            PrivacyError: names or a unit that are none.
        """
        check_run_id(run_id)
        check_dataset(dataset)
        check_unit(unit, user_field)
        line = Announced(run_id, dataset, unit, event, _now_ms(), user_field)
        self._state.check(line)
        due = max(0, tuning - self._state.tuned(run_id))
        needed = event.steps + due
        allowed = self._within_budget(line, event.of(needed))
        if allowed < needed:
            runs = "this run and its tuning runs" if due else "this run"
            raise BudgetExhausted(
                f"{self._budget_text()}: after what {self._file.path} holds, {allowed:,} of the "
                f"{needed:,} updates of {runs} fit. Take fewer updates or more noise "
                "(a smaller privacy.epsilon), or ask the owner of the data"
            )
        self._append(line)
        if due:
            self._append(Tuned(run_id, due, _now_ms()))
        self._allowed = allowed - due

    def charge(self, run_id: str, step: int) -> None:
        """Charge one update, durably; only then may it be applied.

        Args:
            run_id: of the run that was announced last.
            step: updates made before; a step that was charged before is charged again.

        Raises:
            BudgetExhausted: it would exceed the budget; nothing was charged.
            LedgerError: the ledger cannot be written, or the run was not announced.
        """
        # 1. The run is the one that was announced.
        line = Charged(run_id, step, _now_ms())
        self._state.check(line)
        # 2. The budget allows it. What `begin` allowed needs no new reckoning; beyond that
        #    (a step that is made again) each update is reckoned for itself.
        current = self._state.current
        if self._allowed < 1 and current is not None:
            self._allowed = self._within_budget(current, current.event.of(1))
        if self._allowed < 1:
            raise BudgetExhausted(
                f"{self._budget_text()}: what {self._file.path} holds leaves no room for another "
                "update. The model as it is keeps its claim; ask the owner of the data for more"
            )
        # 3. On the disk, then counted.
        self._append(line)
        self._allowed -= 1

    def close(self) -> None:
        """Let go of the ledger; safe to call again."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _within_budget(self, line: Announced, event: Event) -> int:
        """Return how many of the updates of `event` still fit; all where no budget is set."""
        budget = self._state.budget
        if budget is None:
            return event.steps
        earlier = self.releases(line.dataset, unit=budget.unit, user_field=budget.user_field)
        return steps_within(earlier, event, budget.epsilon, budget.delta)

    def _budget_text(self) -> str:
        budget = self._state.budget
        if budget is None:
            return "the ledger has no budget"
        return (
            f"the budget of {budget.dataset!r} is epsilon {budget.epsilon:g} at delta "
            f"{budget.delta:g} for each {unit_words(budget.unit, budget.user_field)}"
        )

    def _mend(self, tail: Tail) -> None:
        """End what a crash left; charge it if it is no whole line."""
        if tail.unended:
            self._file.append(b"\n")
        elif tail.fragments:
            self._append(Torn(tail.fragments, tail.sha256, _now_ms()), before=b"\t")

    def _append(self, line: Line, *, before: bytes = b"") -> None:
        data, link = encode(line, self._state.link)
        self._file.append(before + data)
        self._state.apply(line, link)


def read_ledger(path: Path) -> LedgerView:
    """Verify a ledger and return what it holds; a torn end counts as charged.

    Takes no lock: while a run is writing its next line, that may count as torn for once.

    Raises:
        LedgerError: it is missing, edited or damaged.
    """
    state, tail = read_state(read_file(path), str(path))
    return state.view(tail.fragments)


def ledger_holds(path: Path, link: str) -> bool:
    """Verify a ledger and tell whether a line with this link is in it.

    Raises:
        LedgerError: it is missing, edited or damaged.
    """
    state, _ = read_state(read_file(path), str(path))
    return link in state.links


def _check_since(state: LedgerState, since: Head | None, path: Path) -> None:
    """Raise LedgerError unless the ledger still contains a head that was seen before."""
    if since is None:
        return
    links = state.links
    if not 0 < since.lines <= len(links) or links[since.lines - 1] != since.link:
        raise LedgerError(
            f"{path} is not the ledger that this run has charged, or lines were cut off it: "
            f"it lacks the line {since.lines} that was seen before. Bring the whole ledger back"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
