"""What may be a name in a ledger: of a run, of a data set, of a unit and of the field behind it.

Names are shown in terminals and on pages: they have a sane length and no control characters.
They are names alone; no value of a field is ever one.
"""

from __future__ import annotations

import re
from typing import Final

from trainer.privacy.errors import LedgerError, PrivacyError

UNITS: Final = ("record", "user")

_RUN_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAME: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}")


def check_dataset(name: str) -> None:
    """Raise PrivacyError if `name` cannot name a data set."""
    if not _NAME.fullmatch(name):
        raise PrivacyError(
            "the name of a data set has 1 to 200 characters and no control characters"
        )


def check_unit(unit: str, user_field: str) -> None:
    """Raise PrivacyError if `unit` is no unit of privacy, or does not say by which field it is one.

    Args:
        unit: "record" or "user".
        user_field: what tells users apart; "" where the unit is a record.
    """
    if unit not in UNITS:
        raise PrivacyError(f"the unit {unit!r} is none of {', '.join(UNITS)}")
    if unit == "record" and user_field:
        raise PrivacyError("a field of users was named, and the unit is a record")
    if unit == "user" and not _NAME.fullmatch(user_field):
        raise PrivacyError(
            "where the unit is a user, name the field that tells users apart (privacy.user_field, "
            "--user-field): 1 to 200 characters and no control characters"
        )


def check_run_id(run_id: str) -> None:
    """Raise LedgerError if `run_id` cannot name a run."""
    if not _RUN_ID.fullmatch(run_id):
        raise LedgerError("a run's name has 1 to 64 letters, digits, dots, dashes or underscores")


def unit_words(unit: str, user_field: str) -> str:
    """Return a unit in words: "record", or "user (by the field 'author')"."""
    return f"user (by the field {user_field!r})" if unit == "user" else unit
