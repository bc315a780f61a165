"""What a private run may begin with: nothing that learned the same data and is not counted.

A claim covers what its run releases, and what its ledger holds. Weights that learned the
records before reveal them whatever noise comes later:

    without privacy    refused; its training.json names a file of this run's by digest
    privately          refused unless this run's ledger holds what the start was charged, under
                       the same name of the data; then the claim is of both

The digests of a private start are keyed. The key lies beside its folder, where its run left it;
without the key nobody can tell whose data it learned, and that is said.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from security.bundle.claim import MAX_REPORT_BYTES
from security.errors import SecurityError
from security.files import read_bounded
from trainer.checkpointing.keyed import KEY_FILE, data_key, keyed
from trainer.checkpointing.record import RECORD_NAME, TrainingRecord, read_record
from trainer.errors import CheckpointError
from trainer.privacy.errors import PrivacyError
from trainer.privacy.ledger import ledger_holds
from trainer.privacy.record import REPORT_NAME, decode_report


def refuse_known_start(
    source: str, files: Iterable[Mapping[str, Any]], *, ledger: Path | None, dataset: str
) -> tuple[str, ...]:
    """Refuse a start that learned a file that this run protects, unless it is counted.

    Args:
        source: model.source of the recipe; empty for a new network.
        files: of this run's data: sha256 and role of each.
        ledger: of this run, which may not be there yet; None for one of its own.
        dataset: the name that the ledger counts this run's data under.

    Returns:
        Warnings: what could not be told.

    Raises:
        PrivacyError: its record names one of the training files, and what it released is not
            in the ledger; or its record cannot be read.
    """
    folder = Path(source)
    if not source or not (folder / RECORD_NAME).is_file():
        return ()
    try:
        record = read_record(folder)
    except CheckpointError as problem:
        raise PrivacyError(f"{folder}: does not say what it was trained on: {problem}") from problem
    private = {str(each["sha256"]) for each in files if each["role"] == "train"}
    if not record.keyed:
        if private & _digests(record):
            raise PrivacyError(
                f"{source} was trained on the same data already, without a claim that would count; "
                "start from a model that has not seen it"
            )
        return ()
    if _counted(folder, ledger, dataset):
        return ()
    beside = folder.absolute().parent
    if not os.path.lexists(beside / KEY_FILE):
        return (
            f"{source} was trained privately, and on what is not known here: no {KEY_FILE} lies "
            "beside it. If it was this data, epsilon is the sum of both: name the ledger of that "
            "run (privacy.ledger), and its name of the data (privacy.dataset)",
        )
    key = data_key(beside)
    if {keyed(key, digest) for digest in private} & _digests(record):
        raise PrivacyError(
            f"{source} was trained privately on the same data, and this run's ledger does not hold "
            f"what that released of {dataset!r}: a claim would leave it out. Name the ledger of "
            "that run (privacy.ledger) and its name of the data (privacy.dataset), or start from "
            "a model that has not seen it"
        )
    return ()


def _digests(record: TrainingRecord) -> set[str]:
    return {each.sha256 for each in record.sources}


def _counted(start: Path, ledger: Path | None, dataset: str) -> bool:
    """Whether a ledger holds what a private start claims to have been charged."""
    if ledger is None or not ledger.exists():
        return False
    try:
        composed = decode_report(read_bounded(start / REPORT_NAME, MAX_REPORT_BYTES)).composition
    except (SecurityError, CheckpointError):
        # Without a report nobody knows where it was charged.
        return False
    head = composed.ledger_head
    return composed.dataset == dataset and head is not None and ledger_holds(ledger, head)
