"""What `casemate privacy audit` and `compare` refuse before anything heavy is imported.

Only looks whether what they need is there and goes together; reads no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from security.bundle.claim import REPORT_NAME
from security.errors import UsageError
from trainer.commands.evaluate import model_folder
from trainer.commands.run_folder import CANARIES_FILE, RECIPE_FILE


def check_audit(
    checkpoint: Path,
    *,
    canaries: Path | None = None,
    members: Sequence[Path] = (),
    nonmembers: Sequence[Path] = (),
    epsilon: float | None = None,
    delta: float | None = None,
    record: bool = False,
) -> Path | None:
    """Check the inputs of an audit; return its canaries, None where there are none.

    Raises:
        UsageError: options that do not go together, or nothing to audit with.
    """
    folder = model_folder(checkpoint)
    found = canaries or _canaries_beside(checkpoint, folder)
    if bool(members) != bool(nonmembers):
        raise UsageError("give --members and --nonmembers, both or neither")
    if found is None and not members:
        raise UsageError(
            f"there is no {CANARIES_FILE} beside {checkpoint}: the run planted none "
            "(privacy.canaries). An audit needs them, or both --members and --nonmembers"
        )
    if epsilon is None and delta is not None:
        raise UsageError("--delta needs --epsilon")
    if found is None and epsilon is not None and delta is None:
        raise UsageError("without canaries, --epsilon needs --delta")
    _check_record(folder, record, "an audit")
    return found


def check_compare(
    checkpoint: Path, *, twin: Path | None, data: Sequence[Path], record: bool = False
) -> Path:
    """Check the inputs of a comparison; return the twin.

    Raises:
        UsageError: no twin (with the command that makes one), no data, or nothing to record in.
    """
    folder = model_folder(checkpoint)
    if twin is None:
        raise UsageError(f"give --twin, the same run without privacy: {twin_command(checkpoint)}")
    if not data:
        raise UsageError("give --data, a file that neither model was trained on")
    model_folder(twin)
    _check_record(folder, record, "a comparison")
    return twin


def twin_command(checkpoint: Path) -> str:
    """Return the command that makes the twin of a run."""
    run = checkpoint if (checkpoint / RECIPE_FILE).is_file() else checkpoint.parent
    recipe = run / RECIPE_FILE
    named = str(recipe) if recipe.is_file() else "RECIPE"
    output = f"{run}-twin" if recipe.is_file() else "FOLDER"
    return f"casemate finetune {named} privacy.enabled=false -o {output}"


def _check_record(folder: Path, record: bool, what: str) -> None:
    if record and not (folder / REPORT_NAME).exists():
        raise UsageError(f"{folder} has no {REPORT_NAME} to put {what} into")


def _canaries_beside(checkpoint: Path, folder: Path) -> Path | None:
    """Return canaries.json of the run that a checkpoint belongs to, if it is there."""
    for place in dict.fromkeys((checkpoint, folder.parent)):
        if (place / CANARIES_FILE).is_file():
            return place / CANARIES_FILE
    return None
