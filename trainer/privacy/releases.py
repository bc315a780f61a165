"""The charges of one run, seen by all of its ranks.

The first rank holds the ledger; what it could or could not charge, it tells the others,
so that every rank makes an update or none does.
"""

from __future__ import annotations

from typing import Any

from trainer.distribution.group import Group
from trainer.privacy.errors import BudgetExhausted, LedgerError
from trainer.privacy.ledger import Ledger


class Releases:
    """Charges updates.

    Args:
        ledger: open, on the first rank; None on the others.
        run_id: of this run, as it was announced.
        group: the ranks.
    """

    def __init__(self, ledger: Ledger | None, run_id: str, group: Group) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._group = group

    def charge(self, step: int) -> None:
        """Charge one update, durably; every rank calls it.

        Raises:
            BudgetExhausted: the budget allows no more; no rank may make the update.
            LedgerError: the charge could not be written; no rank may make the update.
        """
        refusal: list[str] | None = None
        if self._ledger is not None:
            try:
                self._ledger.charge(self._run_id, step)
            except (BudgetExhausted, LedgerError) as problem:
                refusal = [type(problem).__name__, str(problem)]
        answer: Any = self._group.broadcast(refusal)
        if answer is not None:
            kind, text = answer
            raise BudgetExhausted(text) if kind == BudgetExhausted.__name__ else LedgerError(text)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, so that a ledger cut at its end is noticed."""
        if self._ledger is None:
            return {}
        head = self._ledger.head
        return {"lines": head.lines, "link": head.link}

    def close(self) -> None:
        """Let go of the ledger."""
        if self._ledger is not None:
            self._ledger.close()
