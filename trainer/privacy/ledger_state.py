"""What a ledger's bytes say: verified line by line, without touching a file.

    opened, (run, tuning?, charge*)* and, after a crash, torn lines in between

Reading is a procedure (docs/formats/privacy-ledger.md):

    1. The first line is `opened`; no other line is.
    2. Each whole line is canonical and its link follows from the line before.
    3. A charge, or tuning, is of the run that was announced last; with a budget, every run
       is for the budget's data and its unit.
    4. What a crash tore off can only be the end of the file, without a line end. The next
       holder ends it with a tab and a `torn` line, which gives the number and the digest of
       the pieces before it. Each piece counts as a charge of the run announced last.
    5. Anything else is damage, and refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from trainer.privacy.errors import LedgerError, PrivacyError
from trainer.privacy.event import Event, compose
from trainer.privacy.ledger_lines import (
    GENESIS,
    MAX_LINE_BYTES,
    Announced,
    Budget,
    Charged,
    Line,
    Opened,
    Torn,
    Tuned,
    decode,
)
from trainer.privacy.ledger_names import check_unit, unit_words

# Crashes while a torn end is being mended leave a few pieces, never many.
MAX_TAIL_BYTES: Final = 16 * MAX_LINE_BYTES


@dataclass(frozen=True, slots=True)
class Head:
    """Where a ledger stands: the number of its whole lines, and the last one's link (hex).

    Kept elsewhere (in checkpoints and reports) it shows that lines were cut off the end.
    """

    lines: int
    link: str


@dataclass(frozen=True, slots=True)
class Release:
    """What was taken under one announcement of a run.

    Attributes:
        run_id: the run.
        dataset: the name of its data.
        unit: "record" or "user".
        user_field: of the data, what tells users apart; "" where the unit is a record.
        mechanism: of one update.
        planned: updates that were announced.
        charged: updates that count as made.
        replayed: those among them for a step that the run had been charged for before.
        torn: those among them for lines that a crash tore.
        tuning: those among them that tuning runs made, which are in no ledger of their own.
        began_ms: Unix time of the announcement, milliseconds.
    """

    run_id: str
    dataset: str
    unit: str
    user_field: str
    mechanism: Event
    planned: int
    charged: int
    replayed: int
    torn: int
    tuning: int
    began_ms: int


def check_budget(budget: Budget, dataset: str, unit: str, user_field: str) -> None:
    """Check that runs on a data set may be charged to a budget (rule 2.2).

    Raises:
        LedgerError: it is for other data, or protects users and the runs do not, or protect
            users by another field.
    """
    if dataset != budget.dataset:
        raise LedgerError(
            f"the budget of this ledger is for {budget.dataset!r}, and this run's data is called "
            f"{dataset!r}; it takes no charges for other data. If it is the same data, say so: "
            f"privacy.dataset={budget.dataset} (--dataset of a plan). Otherwise use a ledger of "
            "its own"
        )
    if budget.unit == "user" and (unit, user_field) != ("user", budget.user_field):
        whom = f"users by the field {user_field!r}" if unit == "user" else "single records"
        raise LedgerError(
            f"the budget of this ledger protects users by the field {budget.user_field!r}, and a "
            f"run that protects {whom} cannot be counted against it; set privacy.unit to 'user' "
            f"and privacy.user_field to {budget.user_field!r}"
        )


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A ledger that was verified.

    Attributes:
        budget: what the owner allows, or None.
        releases: each announcement with what was charged, in order.
        head: where the ledger stands.
    """

    budget: Budget | None
    releases: tuple[Release, ...]
    head: Head

    def events(
        self, dataset: str, *, unit: str = "record", user_field: str = "", without: str = ""
    ) -> tuple[Event, ...]:
        """Return what was charged for a data set, equal mechanisms counted together.

        A claim for users covers the records of each, so it composes with claims for
        records; the other way round nothing can be said. Nor can it between users by one
        field and users by another: one user's records may be those of many of the others.

        Args:
            dataset: the name of the data.
            unit: whom the sum of the releases is to protect.
            user_field: what tells users apart; "" where the unit is a record.
            without: a run to leave out.

        Raises:
            PrivacyError: users are to be protected, and a release protects records alone,
                or users by another field.
        """
        check_unit(unit, user_field)
        chosen = [
            release
            for release in self.releases
            if release.dataset == dataset and release.run_id != without and release.charged
        ]
        for release in chosen:
            if unit == "user" and (release.unit, release.user_field) != (unit, user_field):
                whom = "single records"
                if release.unit == "user":
                    whom = f"users by the field {release.user_field!r}"
                raise PrivacyError(
                    f"the run {release.run_id} on {dataset!r} protects {whom}, so nothing can be "
                    f"claimed for each {unit_words(unit, user_field)} on the same data; use data "
                    "that no such run has seen"
                )
        return compose(release.mechanism.of(release.charged) for release in chosen)


@dataclass(slots=True)
class _Account:
    """An announcement and its charges so far."""

    announced: Announced
    charged: int = 0
    replayed: int = 0
    torn: int = 0
    tuning: int = 0

    def release(self) -> Release:
        said = self.announced
        return Release(
            run_id=said.run_id,
            dataset=said.dataset,
            unit=said.unit,
            user_field=said.user_field,
            mechanism=said.event.of(1),
            planned=said.event.steps,
            charged=self.charged,
            replayed=self.replayed,
            torn=self.torn,
            tuning=self.tuning,
            began_ms=said.time_ms,
        )


@dataclass(slots=True)
class LedgerState:
    """The lines so far; `apply` adds one. Reading and appending go through it alike."""

    budget: Budget | None = None
    links: list[str] = field(default_factory=list)
    _accounts: list[_Account] = field(default_factory=list)
    _steps: dict[str, set[int]] = field(default_factory=dict)
    # Of each run the data and the unit, which it keeps.
    _about: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    @property
    def link(self) -> str:
        """The link that the next line follows."""
        return self.links[-1] if self.links else GENESIS

    @property
    def current(self) -> Announced | None:
        """The run that was announced last."""
        return self._accounts[-1].announced if self._accounts else None

    def tuned(self, run_id: str) -> int:
        """Return the updates of tuning runs that a run was charged for."""
        return sum(each.tuning for each in self._accounts if each.announced.run_id == run_id)

    def check(self, line: Line) -> None:
        """Raise LedgerError if a line cannot come next (steps 1 and 3)."""
        if isinstance(line, Opened) != (not self.links):
            raise LedgerError("a ledger has one opening line, its first")
        if isinstance(line, Announced):
            if self.budget is not None:
                check_budget(self.budget, line.dataset, line.unit, line.user_field)
            if self._about.get(line.run_id, _about(line)) != _about(line):
                raise LedgerError(
                    f"the run {line.run_id} was announced for other data, or another unit"
                )
        if isinstance(line, Charged | Tuned) and (
            self.current is None or self.current.run_id != line.run_id
        ):
            raise LedgerError(f"the run {line.run_id} is not the one that was announced last")

    def apply(self, line: Line, link: str) -> None:
        """Count a line that was checked and stands in the file."""
        self.links.append(link)
        if isinstance(line, Opened):
            self.budget = line.budget
        elif isinstance(line, Announced):
            self._accounts.append(_Account(line))
            self._about[line.run_id] = _about(line)
        elif isinstance(line, Charged):
            account = self._accounts[-1]
            seen = self._steps.setdefault(line.run_id, set())
            account.charged += 1
            account.replayed += line.step in seen
            seen.add(line.step)
        elif isinstance(line, Tuned):
            self._accounts[-1].charged += line.updates
            self._accounts[-1].tuning += line.updates
        elif self._accounts:
            # Without an announcement no update can have been made.
            self._accounts[-1].charged += line.fragments
            self._accounts[-1].torn += line.fragments

    def view(self, tail_fragments: int = 0) -> LedgerView:
        """Return what the ledger says; fragments at the end count like those of a torn line."""
        releases = [account.release() for account in self._accounts]
        if tail_fragments and self._accounts:
            last = self._accounts[-1]
            releases[-1] = _Account(
                last.announced,
                last.charged + tail_fragments,
                last.replayed,
                last.torn + tail_fragments,
                last.tuning,
            ).release()
        return LedgerView(self.budget, tuple(releases), Head(len(self.links), self.link))


def _about(line: Announced) -> tuple[str, str, str]:
    return line.dataset, line.unit, line.user_field


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a file behind its last line end, where a crash tore it.

    Attributes:
        fragments: the torn pieces; 0 if nothing is torn.
        sha256: of their bytes, the tabs between them included.
        unended: whether the file ends with a whole line that only lacks its line end.
    """

    fragments: int = 0
    sha256: str = ""
    unended: bool = False


def read_state(data: bytes, name: str) -> tuple[LedgerState, Tail]:
    """Verify the bytes of a ledger.

    Args:
        data: all of them.
        name: of the file, for errors.

    Returns:
        what it says, and what a crash left behind its last whole line.

    Raises:
        LedgerError: it is edited or damaged; names the line and says why.
    """
    state = LedgerState()
    *whole, last = data.split(b"\n")
    for number, text in enumerate(whole, start=1):
        try:
            _read_line(state, text)
        except LedgerError as error:
            raise LedgerError(
                f"{name}:{number} was edited or damaged: {error}. A ledger is never mended by "
                "hand: bring back a copy that is whole, or take what this data has given as spent"
            ) from error
    if not state.links:
        raise LedgerError(f"{name} has no whole first line, so it is no ledger")
    if not last:
        return state, Tail()
    try:
        _read_line(state, last)
    except LedgerError:
        pieces = last.split(b"\t")
        if len(last) > MAX_TAIL_BYTES:
            raise LedgerError(f"{name} ends in {len(last)} bytes that no crash leaves") from None
        return state, Tail(len(pieces), hashlib.sha256(last).hexdigest())
    return state, Tail(unended=True)


def _read_line(state: LedgerState, text: bytes) -> None:
    """Verify one line (steps 1 to 4) and count it; a line that is refused changes nothing."""
    before, tab, own = text.rpartition(b"\t")
    line, link = decode(own, state.link)
    pieces = before.count(b"\t") + 1 if tab else 0
    said = (line.fragments, line.sha256) if isinstance(line, Torn) else (0, "")
    if said != (pieces, hashlib.sha256(before).hexdigest() if tab else ""):
        raise LedgerError("what a crash left before it is not what it says")
    state.check(line)
    state.apply(line, link)
