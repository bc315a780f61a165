"""Errors of private training.

    RecipeError
    └── PrivacyError             what was asked for cannot be claimed, or not be accounted for
        ├── BudgetExhausted      the data's owner allows no more
        └── LedgerError          the ledger is missing, edited or damaged

Each message names the reason; none holds anything of a record.
"""

from __future__ import annotations

from pathlib import Path

from trainer.errors import RecipeError


class PrivacyError(RecipeError):
    """What was asked for cannot be claimed, or cannot be accounted for."""


class BudgetExhausted(PrivacyError):
    """The budget that the data's owner set allows no further update."""


class LedgerError(PrivacyError):
    """The ledger of releases is missing, edited or damaged."""

    @classmethod
    def missing(cls, path: Path, dataset: str = "NAME") -> LedgerError:
        """Return the refusal of a ledger that is not where it should be.

        Args:
            path: where it should be.
            dataset: the name of the data, for the command that begins a new one.
        """
        return cls(
            f"there is no ledger at {path}. With a ledger that is lost, what the data has given "
            "and its owner's budget are lost too; a new one would begin at zero and be wrong. "
            "Bring it back, or say where it lies now (privacy.ledger=PATH; for a run that goes on, "
            "under the same file name). Only for data that no private run has ever used, begin "
            f"one: casemate privacy ledger init {path} --dataset {dataset} --epsilon E --delta D"
        )
