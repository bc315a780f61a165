"""Opens a checkpoint for private text generation: the claim is verified before anything is used.

    1. privacy.json is there, breaks no rule, and is about these weights and this record
       (`trainer.privacy.record.read_report`).
    2. Its own audit does not contradict it.
    3. Every file that training.json names is the one that was exported, and nothing was
       added that would be read with them: another tokenizer could spell anything.
    4. What is then loaded has the digests that were verified; files that change in
       between are refused.
    5. The network predicts the next token.

What it refuses is each of these, by name. Invariant: whoever holds a `PrivateModel` holds
weights that its report is about.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.checkpointing.record import read_record
from trainer.data.tokenizer_files import CONFIG_FILE as SETTINGS_FILE
from trainer.data.tokenizer_files import MAP_FILE, TOKENIZER_FILE
from trainer.errors import CheckpointError
from trainer.evaluation.opening import OpenCheckpoint, kind_of, open_checkpoint
from trainer.models.weights import CONFIG_FILE, sha256_regular
from trainer.privacy.errors import PrivacyError
from trainer.privacy.record import REPORT_NAME, PrivacyReport, read_report
from trainer.recipe.schema import DataOptions

_KIND: Final = "next-token"
_WEIGHTS: Final = ".safetensors"
# Beside the weights, what decides which text comes out.
_READ_FILES: Final = (CONFIG_FILE, TOKENIZER_FILE, SETTINGS_FILE, MAP_FILE)


@dataclass(frozen=True, slots=True)
class PrivateModel:
    """A language model and the claim that was verified for it.

    Attributes:
        checkpoint: open, on its device.
        report: its privacy.json.
        report_sha256: of the bytes of privacy.json.
    """

    checkpoint: OpenCheckpoint
    report: PrivacyReport
    report_sha256: str

    @property
    def record_tokens(self) -> int:
        """Tokens of a record that the model was trained on, at most; never above its positions."""
        recipe = self.checkpoint.recipe
        data = DataOptions() if recipe is None else recipe.data
        return min(data.sequence_length, self.checkpoint.network.context)


def verified_report(folder: Path) -> tuple[PrivacyReport, str]:
    """Return the report of a checkpoint whose claim may be relied on, and its SHA-256.

    These are steps 1 to 3.

    Raises:
        PrivacyError: there is no claim, or its own audit contradicts it.
        CheckpointError: report, weights and files do not belong together.
    """
    # 1. The claim and what it is about.
    if not (folder / REPORT_NAME).exists():
        raise PrivacyError(
            f"{folder} has no {REPORT_NAME}: it was not finetuned with privacy, so its texts "
            "may repeat its data, and nothing can be claimed for them. Finetune it with "
            "`casemate finetune --private`"
        )
    report = read_report(folder)
    # 2. A claim that is known to be false.
    if report.standing.refuted:
        raise PrivacyError(
            f"the audit in {folder / REPORT_NAME} shows a larger epsilon than it claims: the "
            "claim is false, and nothing is written under it"
        )
    # 3. What turns weights into text.
    files = read_record(folder).files
    for name in _READ_FILES:
        if name not in files and (folder / name).exists():
            raise CheckpointError(f"{folder / name} was added after training; remove it")
    for name, recorded in files.items():
        if not name.endswith(_WEIGHTS) and sha256_regular(folder / name) != recorded.sha256:
            raise CheckpointError(
                f"{folder / name} is not the file that training.json names: it was changed after "
                "training"
            )
    # A report is read only if its bytes are the canonical ones.
    return report, hashlib.sha256(report.encode()).hexdigest()


def open_private(folder: Path, device: str = "auto") -> PrivateModel:
    """Verify the claim of a checkpoint, then open it.

    Args:
        folder: the checkpoint, with privacy.json.
        device: "auto", "cpu" or "cuda".

    Raises:
        PrivacyError: there is no claim that could be relied on, or nothing that writes text.
        CheckpointError: the checkpoint cannot be read, or is not what the claim is about.
        DataError: there is no tokenizer in it.
        RecipeError: there is no such device.
    """
    report, digest = verified_report(folder)
    checkpoint = open_checkpoint(folder, device)
    # 4. The files that were loaded are the files that were verified.
    origin = checkpoint.network.origin
    verified = (report.model.weights_sha256, report.model.training_sha256)
    if origin is None or (origin.weights, origin.record) != verified:
        raise CheckpointError(f"{folder} changed while it was read; try again")
    # 5. Texts are written one token after another.
    found = kind_of(checkpoint.network)
    if found != _KIND:
        raise PrivacyError(
            f"{folder} was made for {found!r} and writes no text; take a checkpoint of a decoder "
            f"or a recurrent network with objective.kind {_KIND!r}"
        )
    return PrivateModel(checkpoint, report, digest)
