"""A privacy report with something in every section, and checkpoints to bind it to."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from security.bundle.claim import AuditEvidence
from trainer.checkpointing.record import CodeVersion, Environment, RecordedFile, TrainingRecord
from trainer.privacy.hazards import NOT_PROTECTED, hazards_of
from trainer.privacy.record import PrivacyReport
from trainer.privacy.sections import (
    Accounting,
    Budget,
    Claim,
    Composition,
    Curve,
    Evidence,
    Exposure,
    GroupUtility,
    Mechanism,
    Membership,
    ModelIdentity,
    Randomness,
    Release,
    Utility,
)

DIGEST = "ab" * 32


def checkpoint(folder: Path, weights: bytes = b"weights") -> Path:
    """The files of a checkpoint that a report is bound to."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    record = TrainingRecord(
        name="reviews",
        created="2026-01-02T03:04:05Z",
        recipe_digest=DIGEST,
        recipe={},
        data_fingerprint="x",
        sources=(),
        seeds={"run": 1},
        steps=156,
        metrics={},
        code=CodeVersion("0.1.0", DIGEST),
        environment=Environment("3.11", "Linux", "CPU", (), {}, 1),
        files={"model.safetensors": RecordedFile(hashlib.sha256(weights).hexdigest(), 7)},
    )
    (folder / "training.json").write_bytes(record.encode())
    return folder


def membership(auc: float = 0.52) -> Membership:
    return Membership(auc, (auc - 0.03, auc + 0.03), 0.012, (0.004, 0.03), 0.01, (0.0, 0.02),
                      1000, 900, 0.95)  # fmt: skip


def report(folder: Path | None = None, **changes: Any) -> PrivacyReport:
    """A report; about the checkpoint in `folder`, if one is given."""
    identity = ModelIdentity("reviews", DIGEST, DIGEST)
    if folder is not None:
        weights, training = (
            hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("model.safetensors", "training.json")
        )
        identity = ModelIdentity("reviews", weights, training)
    made = PrivacyReport(
        created="2026-01-02T03:04:05Z",
        model=identity,
        claim=Claim(3.0, 1e-5, "user", 4, "zero-out", "truncated-poisson", "author"),
        mechanism=Mechanism(
            units=2000,
            expected_batch=256,
            sampling_probability=0.128,
            cap=308,
            steps=156,
            noise_multiplier=2.43,
            noise="gaussian",
            clipping="flat",
            clip_norm=0.1,
            sensitivity=0.4,
            noise_to_batch_ratio=0.0095,
            optimizer="adamw",
            trained="lora",
            trained_parameters=98_304,
        ),
        accounting=Accounting(
            accountant="pld",
            epsilon_rdp=3.4,
            epsilon_prv=3.01,
            epsilon_unamplified=31.0,
            curve=Curve((1e-8, 1e-5, 1e-3), (4.6, 3.0, 1.9), (5.2, 3.4, 2.3), (None, 3.01, 1.91)),
            packages={"dp-accounting": "0.6.0", "opacus": "1.6.0"},
        ),
        composition=Composition(
            dataset="reviews",
            epsilon_of_this_run=2.5,
            tuning_runs=1,
            earlier=(Release(2000, 0.128, 4.0, 50, 308, "poisson"),),
            budget=Budget(8.0, 1e-5),
            ledger_head=DIGEST,
        ),
        randomness=Randomness("AES-256 in counter mode", "float64", "rounded once"),
        evidence=Evidence(
            canaries_sha256=DIGEST,
            audit=AuditEvidence("one-run", 200, 40, 23, 0.95, 1e-5, 0.2, 4.1),
            exposure=Exposure(1.5, (1.3, 1.7), 8.0, 2.0, 1.44, 10.0, 1023, 0.95),
            canary_membership=membership(),
            membership=membership(0.51),
            calibrated=True,
        ),
        utility=Utility(
            metric="accuracy",
            higher_is_better=True,
            examples=900,
            confidence=0.95,
            private=0.87,
            private_interval=(0.85, 0.89),
            twin=0.91,
            twin_interval=(0.89, 0.93),
            cost_interval=(0.02, 0.06),
            chance=0.5,
            kept=0.9024,
            kept_interval=(0.86, 0.95),
            groups=(
                GroupUtility(
                    "long texts", 120, 0.81, (0.73, 0.87), 0.9, (0.83, 0.94), (0.05, 0.13)
                ),
            ),
        ),
        not_protected=NOT_PROTECTED,
        hazards=(),
    )
    made = replace(made, **changes)
    return replace(made, hazards=hazards_of(made))
