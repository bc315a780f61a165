"""A private run's claim, from its ledger through checkpoint and bundle to an admission rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compiler.bundling.create import CreateRequest, create_bundle
from runtime.models.admission import require_admission, standing_of
from runtime.models.errors import ModelNotAdmitted
from runtime.policy import Policy, parse_policy
from security.bundle.attestations import PRIVACY_NAME, TRAINING_NAME
from security.bundle.opening import open_bundle
from security.bundle.signing import sign_bundle
from security.checkpoint.signing import sign_checkpoint
from security.checkpoint.verifying import verify_checkpoint
from tests.support.forged_bundles import signing_keys, trusting
from trainer.checkpointing.export import export_checkpoint
from trainer.checkpointing.origin import record_of_run
from trainer.data.tokenizer_training import train_tokenizer
from trainer.models.build import build_network
from trainer.privacy.concluding import conclude
from trainer.privacy.ledger import Ledger
from trainer.privacy.plan import PrivacyPlan, make_plan
from trainer.recipe.schema import (
    BatchOptions,
    ModelOptions,
    ObjectiveOptions,
    OptimizerOptions,
    PrivacyOptions,
    Recipe,
    RunOptions,
    TokenizerOptions,
)

RECIPE = Recipe(
    run=RunOptions(steps=3),
    model=ModelOptions(family="encoder", layers=1, width=32, heads=2, inner_width=64),
    tokenizer=TokenizerOptions(kind="wordpiece", vocabulary_size=60, minimum_count=1),
    objective=ObjectiveOptions(kind="classification", softmax="full"),
    optimizer=OptimizerOptions(warmup_steps=0),
    batch=BatchOptions(sequences=50),
    privacy=PrivacyOptions(enabled=True, epsilon=3.0),
)
TEXTS = ("the old town of rome", "went to oslo and saw the town", "anna and bert saw rome") * 20


def exported(folder: Path) -> Path:
    """A tiny classifier as training exports it."""
    tokenizer = train_tokenizer(RECIPE.tokenizer, TEXTS, "encoder").tokenizer
    network = build_network(
        RECIPE.model,
        RECIPE.objective,
        vocabulary_size=tokenizer.vocabulary_size,
        context=32,
        special=tokenizer.special,
        labels=("city", "port"),
    )
    record = record_of_run(
        RECIPE,
        name="towns",
        sources=[],
        data_fingerprint="x",
        steps=3,
        metrics={},
        device=torch.device("cpu"),
    )
    return export_checkpoint(folder, network, None, tokenizer, record)


def charged(path: Path, plan: PrivacyPlan) -> Path:
    """A ledger as the run leaves it."""
    with Ledger.create(path) as ledger:
        ledger.begin("this", "towns", plan.event)
        for step in range(plan.steps):
            ledger.charge("this", step)
    return path


def asking(epsilon: float) -> Policy:
    rule = f'[[admission]]\nunit = "record"\nmax_epsilon = {epsilon}\nmax_delta = 0.001\n'
    return parse_policy(f"version = 1\n{rule}".encode())


def test_the_claim_arrives_and_decides(tmp_path: Path) -> None:
    plan = make_plan(RECIPE, 600)
    final = exported(tmp_path / "final")
    report = conclude(
        final,
        plan=plan,
        steps=3,
        ledger=charged(tmp_path / "ledger.jsonl", plan),
        run_id="this",
        dataset="towns",
        optimizer="adamw",
        trained="all",
        trained_parameters=1,
        canaries_digest=None,
    )
    assert report.claim.epsilon <= 3.0
    sign_checkpoint(final, signing_keys())
    verify_checkpoint(final, trusting())

    request = CreateRequest(final, tmp_path / "bundle", "towns", "1.0.0", probes=False)
    created = create_bundle(request, lambda _: None)
    assert created.attestations == (PRIVACY_NAME, TRAINING_NAME)
    sign_bundle(tmp_path / "bundle", signing_keys())
    with open_bundle(tmp_path / "bundle", trusting()) as bundle:
        standing = standing_of(bundle)
        stated = json.loads(bundle.files[TRAINING_NAME].read())["predicate"]["record"]
    assert standing.claim == report.standing
    assert stated == json.loads((final / "training.json").read_text())

    require_admission(asking(3.0), "towns", "1.0.0", standing)
    with pytest.raises(ModelNotAdmitted, match=r"above 0\.5"):
        require_admission(asking(0.5), "towns", "1.0.0", standing)
