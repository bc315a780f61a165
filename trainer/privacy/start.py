"""What a private run may begin with: nothing that already learned the same data.

A claim covers what its run releases. Weights that learned the records before, without
privacy, reveal them whatever noise comes later; so a start whose training.json names one of
this run's files is refused. A start that was itself trained privately says its digests under
a key; its releases count where both runs keep one ledger.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainer.checkpointing.record import RECORD_NAME
from trainer.privacy.errors import PrivacyError


def refuse_known_start(source: str, files: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a start that was trained on a file that this run protects.

    Args:
        source: model.source of the recipe; empty for a new network.
        files: of this run's data: sha256 and role of each.

    Raises:
        PrivacyError: its record names one of the training files.
    """
    record = Path(source) / RECORD_NAME
    if not source or not record.is_file():
        return
    try:
        known = json.loads(record.read_text(encoding="utf-8"))["data"]["sources"]
        digests = {each["sha256"] for each in known}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise PrivacyError(f"{record}: does not say what it was trained on") from problem
    private = {each["sha256"] for each in files if each["role"] == "train"}
    if digests & private:
        raise PrivacyError(
            f"{source} was trained on the same data already, without a claim that would count; "
            "start from a model that has not seen it"
        )
