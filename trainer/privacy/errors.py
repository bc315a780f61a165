"""Errors of private training.

    RecipeError
    └── PrivacyError             what was asked for cannot be claimed, or not be accounted for
        ├── BudgetExhausted      the data's owner allows no more
        └── LedgerError          the ledger is missing, edited or damaged

Each message names the reason; none holds anything of a record.
"""

from __future__ import annotations

from trainer.errors import RecipeError


class PrivacyError(RecipeError):
    """What was asked for cannot be claimed, or cannot be accounted for."""


class BudgetExhausted(PrivacyError):
    """The budget that the data's owner set allows no further update."""


class LedgerError(PrivacyError):
    """The ledger of releases is missing, edited or damaged."""
