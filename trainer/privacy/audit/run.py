"""The audit of one finished checkpoint: attacks on its canaries and on real records.

Canaries give what no other records can give: a proven lower bound on epsilon, because
their coins were thrown for the audit alone. Real members and non-members show what an
attacker gets in practice; they contradict no claim, as members and others may differ in
more than membership.

It refuses canaries of another tokenizer or objective and a reference model that speaks
of other labels. The checkpoint is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.checkpointing.origin import parent_of
from trainer.data.batch import DataSet
from trainer.data.files import find_files
from trainer.data.record_table import read_table
from trainer.data.record_text import RecordText, record_layout, with_objective
from trainer.data.tokenizing import load_labelled
from trainer.evaluation.checkpoint import own_objective
from trainer.evaluation.opening import OpenCheckpoint, open_checkpoint, require_fit
from trainer.models.network import Network
from trainer.privacy.audit.canaries import CanarySet, Records, load_canaries
from trainer.privacy.audit.exposure import measure_exposure
from trainer.privacy.audit.insertion import record_data
from trainer.privacy.audit.membership import measure_membership
from trainer.privacy.audit.one_run import bound_epsilon
from trainer.privacy.audit.result import AuditResult, CanaryAudit, Claim
from trainer.privacy.audit.scoring import Progress, score_records
from trainer.privacy.errors import PrivacyError
from trainer.recipe.schema import TEXT_OBJECTIVES, DataOptions

# Fresh records that canaries are ranked among: exposures up to ten bits can show.
CANDIDATES = 1023
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


def audit_scores(
    canaries: CanarySet,
    scores: Floats,
    candidates: Floats,
    *,
    delta: float,
    confidence: float = CONFIDENCE,
) -> CanaryAudit:
    """Return what the scores of canaries show.

    Args:
        canaries: with their coins.
        scores: f64[m], of all canaries, higher where the model knows them better.
        candidates: f64[M], of fresh records.
        delta: granted to the claim.
        confidence: of each figure's interval and of the bound.

    Raises:
        PrivacyError: a score is no number, or all coins fell alike.
    """
    coins = canaries.included
    if coins.all() or not coins.any():
        raise PrivacyError(
            f"all {coins.size} coins fell alike, so nothing can be compared; plant more canaries"
        )
    return CanaryAudit(
        digest=canaries.digest,
        planted=int(coins.sum()),
        bound=bound_epsilon(scores, coins, delta=delta, confidence=confidence, unseen=candidates),
        exposure=measure_exposure(scores[coins], scores[~coins], candidates, confidence=confidence),
        membership=measure_membership(scores[coins], scores[~coins], confidence=confidence),
    )


def audit_checkpoint(
    folder: Path,
    *,
    canaries: Path | None = None,
    members: Sequence[Path] = (),
    nonmembers: Sequence[Path] = (),
    reference: Path | None = None,
    claim: Claim | None = None,
    confidence: float = CONFIDENCE,
    candidates: int = CANDIDATES,
    device: str = "auto",
    batch: int = 16,
    progress: Progress | None = None,
) -> AuditResult:
    """Audit a checkpoint directory.

    Args:
        folder: config.json, model.safetensors, tokenizer.json and training.json.
        canaries: canaries.json of the run.
        members: files of records that it was trained on.
        nonmembers: files of like records that it was not trained on.
        reference: a checkpoint to calibrate by, such as the one training started from; it
            must not have seen the records, nor know the coins.
        claim: what to compare with; None compares with nothing, and grants the bound a
            delta of half of 1/units.
        confidence: of the bound and of every interval.
        candidates: fresh records to rank canaries among.
        device: "auto", "cpu" or "cuda".
        batch: records of one forward pass.
        progress: is told (records seen, records in all), for one set after another.

    Raises:
        PrivacyError: there is nothing to audit with, or it does not fit the checkpoint;
            or the reference is the checkpoint itself, which would hide all that it knows.
        CheckpointError, DataError, RecipeError: as opening and reading raise them.
    """
    if canaries is None and not (members and nonmembers):
        raise PrivacyError("an audit needs the run's canaries.json, or both members and nonmembers")
    audited = _Audited(folder, reference, device, batch, progress)
    found = None
    if canaries is not None:
        planted = load_canaries(canaries)
        found = audit_scores(
            planted,
            audited.score(planted, planted.records),
            audited.score(planted, planted.candidates(candidates, audited.checkpoint.tokenizer)),
            delta=granted_delta(planted) if claim is None else claim.delta,
            confidence=confidence,
        )
    membership = None
    if members and nonmembers:
        membership = measure_membership(
            audited.score_files(members), audited.score_files(nonmembers), confidence=confidence
        )
    return AuditResult(claim, found, membership, calibrated=reference is not None)


def granted_delta(canaries: CanarySet) -> float:
    """Return half of 1/units, canaries counted: the delta of a recipe that names none."""
    return 0.5 / (canaries.units + len(canaries))


def granted_delta_of(path: Path) -> float:
    """Return `granted_delta` of a file of canaries.

    Raises:
        PrivacyError: it cannot be read.
    """
    return granted_delta(load_canaries(path))


class _Audited:
    """An open checkpoint and how to score records with it."""

    def __init__(
        self,
        folder: Path,
        reference: Path | None,
        device: str,
        batch: int,
        progress: Progress | None,
    ) -> None:
        self.checkpoint: OpenCheckpoint = open_checkpoint(folder, device)
        self._objective = own_objective(self.checkpoint)
        require_fit(self.checkpoint, self._objective.kind)
        recipe = self.checkpoint.recipe
        data = DataOptions() if recipe is None else recipe.data
        length = min(data.sequence_length, self.checkpoint.network.context)
        self._data = replace(data, sequence_length=length)
        self._reference = None if reference is None else self._open_reference(reference, device)
        self._batch = batch
        self._progress = progress

    def _open_reference(self, folder: Path, device: str) -> Network:
        own, other = self.checkpoint, open_checkpoint(folder, device)
        if parent_of(folder).weights_sha256 == parent_of(own.folder).weights_sha256:
            raise PrivacyError(
                f"{folder} has the weights of {own.folder}: taking off its own scores hides all "
                "that it knows; give a checkpoint that has not seen the records"
            )
        fits = (
            other.tokenizer.digest == own.tokenizer.digest
            and other.network.labels == own.network.labels
            and other.network.family == own.network.family
        )
        if not fits:
            raise PrivacyError(
                f"{folder} cannot calibrate {own.folder}: its tokenizer, family or labels differ"
            )
        return other.network

    def score(self, canaries: CanarySet, records: Records) -> Floats:
        """Return the scores of random records."""
        if canaries.objective != self._objective.kind:
            raise PrivacyError(
                f"the canaries are records for {canaries.objective!r}, and the checkpoint was "
                f"made for {self._objective.kind!r}"
            )
        canaries.check_tokenizer(self.checkpoint.tokenizer)
        labels = self.checkpoint.network.labels
        if len(labels) != canaries.labels:
            raise PrivacyError(
                f"the canaries choose from {canaries.labels} labels, and the checkpoint has "
                f"{len(labels)}"
            )
        dataset = record_data(
            records,
            objective=self._objective,
            data=self._data,
            tokenizer=self.checkpoint.tokenizer,
            labels=labels,
        )
        return self._score(dataset)

    def score_files(self, paths: Sequence[Path]) -> Floats:
        """Return the scores of the records in files: one for each line, row or document."""
        kind, tokenizer = self._objective.kind, self.checkpoint.tokenizer
        files = find_files([str(path) for path in paths], self._data.format)
        if kind in TEXT_OBJECTIVES:
            # Not windows over a stream: membership is a record's.
            layout = record_layout(tokenizer, self._objective, self._data)
            table = read_table(files, self._data, tokenizer, room=layout.room, fewest=layout.fewest)
            records = RecordText(table, layout)
            return self._score(with_objective(records, self._objective, tokenizer, seed=0))
        if kind == "contrastive":
            raise PrivacyError(
                "a sentence embedding has no loss of one record that could be attacked"
            )
        labels = self.checkpoint.network.labels
        return self._score(load_labelled(files, kind, self._data, tokenizer, labels))

    def _score(self, dataset: DataSet) -> Floats:
        return score_records(
            self.checkpoint.network,
            dataset,
            device=self.checkpoint.device,
            reference=self._reference,
            batch=self._batch,
            progress=self._progress,
        )
