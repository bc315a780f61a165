"""The audit of real trainings: one without noise is caught, one with noise is not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from security.errors import UsageError
from tests.trainer.e2e.small import typed
from tests.trainer.privacy.audit.small import (
    DATA,
    LABELS,
    OBJECTIVE,
    RECORDS,
    Setup,
    new_network,
    setup,
    train_bare,
    train_with_noise,
)
from tests.trainer.privacy.reports import report
from trainer.checkpointing.record import CodeVersion, Environment, TrainingRecord
from trainer.commands.privacy_audit import audit_of, render_audit
from trainer.errors import CheckpointError
from trainer.models.network import Network
from trainer.privacy.accounting import epsilon_pld
from trainer.privacy.audit.canaries import load_canaries
from trainer.privacy.audit.exposure import UNSEEN_MEAN_BITS
from trainer.privacy.audit.insertion import prepare_canaries
from trainer.privacy.audit.planning import reach_of
from trainer.privacy.audit.result import Claim as Claimed
from trainer.privacy.audit.run import audit_checkpoint, audit_scores
from trainer.privacy.errors import PrivacyError
from trainer.privacy.event import Event
from trainer.privacy.record import read_report, write_report
from trainer.privacy.sections import Claim, Evidence
from trainer.recipe.describe import all_values
from trainer.recipe.schema import ModelOptions, Recipe

CLAIM = Claimed(epsilon=2.0, delta=1e-5)


def save(folder: Path, made: Setup, network: Network) -> Path:
    """A checkpoint directory such as a run leaves beside its canaries."""
    final = folder / "final"
    final.mkdir()
    network.save(final)
    made.tokenizer.save(final)
    return final


def write_training_record(final: Path) -> None:
    """The training.json that a run would have left."""
    recipe = Recipe(model=ModelOptions(family="convolution"), objective=OBJECTIVE, data=DATA)
    record = TrainingRecord(
        name="small",
        created="2026-01-02T03:04:05Z",
        recipe_digest="ab" * 32,
        recipe=all_values(recipe),
        data_fingerprint="x",
        sources=(),
        seeds={"run": 1},
        steps=450,
        metrics={},
        code=CodeVersion("0.1.0", "ab" * 32),
        environment=Environment("3.11", "Linux", "CPU", (), {}, 1),
    )
    (final / "training.json").write_bytes(record.encode())


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: 200 canaries, plain SGD without any noise, a claim of 2."""
    folder = tmp_path_factory.mktemp("bare")
    made = setup(folder)
    network = new_network(made.tokenizer)
    train_bare(network, made.data, steps=450, rate=1.0)
    save(folder, made, network)
    return folder


def test_training_without_noise_contradicts_a_claim_of_two(caught: Path) -> None:
    found = audit_checkpoint(
        caught / "final", canaries=caught / "canaries.json", claim=CLAIM, device="cpu", batch=64
    )
    assert found.contradicted is True
    assert found.canaries is not None
    assert found.canaries.bound.epsilon >= 3.0
    assert found.canaries.bound.canaries == 200
    assert found.canaries.exposure.mean > 5
    assert found.canaries.exposure.unseen_mean == pytest.approx(UNSEEN_MEAN_BITS, abs=0.7)
    assert found.canaries.membership.auc > 0.95
    assert found.canaries.digest == load_canaries(caught / "canaries.json").digest


def test_training_with_noise_stays_below_its_claim(tmp_path: Path) -> None:
    made = setup(tmp_path)
    event = Event(units=len(made.data), sampling_probability=0.1, noise_multiplier=2.0, steps=30)
    delta = 1e-5
    epsilon = epsilon_pld(event, delta)
    network = new_network(made.tokenizer)
    train_with_noise(
        network,
        made.data,
        steps=event.steps,
        rate=1.0,
        sampling_probability=event.sampling_probability,
        noise_multiplier=event.noise_multiplier,
    )
    final = save(tmp_path, made, network)
    found = audit_checkpoint(
        final,
        canaries=tmp_path / "canaries.json",
        claim=Claimed(epsilon, delta),
        device="cpu",
        batch=64,
    )
    assert found.contradicted is False
    assert found.canaries is not None
    assert found.canaries.bound.epsilon < epsilon
    # The audit could have contradicted it.
    assert found.canaries.bound.ceiling > epsilon


def test_a_network_that_never_saw_the_canaries_tells_nothing(caught: Path, tmp_path: Path) -> None:
    made = setup(tmp_path)
    final = save(tmp_path, made, new_network(made.tokenizer))
    found = audit_checkpoint(final, canaries=tmp_path / "canaries.json", device="cpu", batch=64)
    assert found.contradicted is None
    assert found.canaries is not None
    # Nothing is proven but once in twenty times, and then little.
    assert found.canaries.bound.epsilon < 1
    # Another run's canaries are as unknown to the network that was caught.
    other = audit_checkpoint(
        caught / "final", canaries=tmp_path / "canaries.json", claim=CLAIM, device="cpu", batch=64
    )
    assert other.contradicted is False


def test_the_command_finds_the_run_s_canaries(
    caught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = audit_of(caught, epsilon=2.0, delta=1e-5, device="cpu", batch=64)
    assert document["contradicted"] is True
    assert document["claim"] == {"epsilon": 2.0, "delta": 1e-5}
    render_audit(document)
    shown = capsys.readouterr().out
    assert "THE CLAIM IS CONTRADICTED: it says 2 at most" in shown
    assert "never prove one" in shown
    assert "w1" not in shown


def test_the_typed_command_ends_with_one_where_a_claim_is_contradicted(caught: Path) -> None:
    words = ("privacy", "audit", caught, "--delta", "1e-5", "--device", "cpu", "--json")
    result = typed(*words, "--epsilon", "2")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["contradicted"] is True
    assert typed(*words, "--epsilon", "100").exit_code == 0


def test_an_audit_that_could_not_contradict_says_so(
    caught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = audit_of(caught, epsilon=2.0, device="cpu", batch=64)
    # Half of 1/units, canaries counted: too large beside 200 canaries.
    assert document["claim"] == {"epsilon": 2.0, "delta": 0.5 / (RECORDS + 200)}
    assert document["contradicted"] is False
    render_audit(document)
    shown = capsys.readouterr().out
    assert "could not have contradicted it" in shown
    # At so large a delta no number of canaries reaches far.
    reach = reach_of(document["advice"]["canaries"], 0.5 / (RECORDS + 200))
    assert f"{reach.canaries:,} reach furthest, {reach.ceiling:.2f}" in shown


def test_it_says_how_many_canaries_could_contradict_a_claim(
    caught: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = audit_of(caught, epsilon=5.0, delta=1e-6, device="cpu", batch=64)
    assert document["contradicted"] is False
    render_audit(document)
    shown = capsys.readouterr().out
    assert "One more training, with privacy.canaries=1000, could show up to 5.37" in shown


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"delta": 1e-5}, "needs --epsilon"),
        ({"members": [Path("a.tsv")]}, "both or neither"),
        ({"canaries": Path("none.json")}, "none.json"),
    ],
    ids=["delta-alone", "members-alone", "no-such-file"],
)
def test_options_that_say_nothing_are_refused(
    caught: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        audit_of(caught, device="cpu", **options)


def test_an_audit_goes_into_the_report_of_its_checkpoint(caught: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(caught, folder)
    final = folder / "final"
    (folder / "recipe.toml").touch()
    write_training_record(final)
    claimed = report(final, claim=Claim(3.0, 1e-5, "record", 1, "zero-out", "truncated-poisson"))
    digest = load_canaries(folder / "canaries.json").digest
    write_report(final, replace(claimed, evidence=Evidence(digest)))
    found = audit_of(folder, device="cpu", batch=64, record=True)
    # What is claimed is read from the report.
    assert found["claim"] == {"epsilon": 3.0, "delta": 1e-5}
    kept = read_report(final)
    assert kept.evidence.audit is not None
    assert kept.evidence.audit.lower_bound == found["canaries"]["lower_bound"]["epsilon"]
    assert kept.standing.refuted
    assert (folder / "privacy.html").is_file()


def test_there_must_be_a_report_to_put_an_audit_into(caught: Path) -> None:
    with pytest.raises(UsageError, match=r"no privacy\.json"):
        audit_of(caught, device="cpu", record=True)


def test_real_members_and_others(caught: Path, tmp_path: Path) -> None:
    others = tmp_path / "others.tsv"
    draw = np.random.default_rng(12)
    # Labels that no model could know.
    rows = [
        " ".join(f"w{word}" for word in draw.integers(2, 40, 8)) + f"\t{draw.integers(0, 2)}"
        for _ in range(150)
    ]
    others.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    found = audit_checkpoint(
        caught / "final",
        members=[caught / "records.tsv"],
        nonmembers=[others],
        claim=CLAIM,
        device="cpu",
    )
    assert found.canaries is None
    # Such records can differ in more than membership: they contradict no claim.
    assert found.contradicted is None
    assert found.membership is not None
    assert (found.membership.members, found.membership.others) == (RECORDS, 150)
    assert found.membership.auc > 0.6


def test_a_reference_model_calibrates(caught: Path, tmp_path: Path) -> None:
    made = setup(tmp_path)
    reference = save(tmp_path, made, new_network(made.tokenizer))
    found = audit_checkpoint(
        caught / "final",
        canaries=caught / "canaries.json",
        reference=reference,
        claim=CLAIM,
        device="cpu",
        batch=64,
    )
    assert found.calibrated
    assert found.contradicted is True


def test_a_checkpoint_cannot_calibrate_itself(caught: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(caught / "final", tmp_path / "copy")
    with pytest.raises(PrivacyError, match="hides all"):
        audit_checkpoint(
            caught / "final", canaries=caught / "canaries.json", reference=copied, device="cpu"
        )


def test_nothing_to_audit_with_is_refused(caught: Path) -> None:
    with pytest.raises(PrivacyError, match=r"canaries\.json, or both"):
        audit_checkpoint(caught / "final", members=[caught / "records.tsv"])


def test_canaries_for_other_labels_are_refused(caught: Path, tmp_path: Path) -> None:
    made = setup(tmp_path)
    path = tmp_path / "three.json"
    prepare_canaries(
        path,
        10,
        objective=OBJECTIVE,
        data=DATA,
        tokenizer=made.tokenizer,
        labels=(*LABELS, "2"),
        units=10,
    )
    with pytest.raises(PrivacyError, match="choose from 3 labels"):
        audit_checkpoint(caught / "final", canaries=path, device="cpu")


def test_a_folder_without_a_model_is_refused(caught: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        audit_checkpoint(tmp_path, canaries=caught / "canaries.json", device="cpu")


def test_coins_that_fell_alike_are_refused(caught: Path) -> None:
    planted = load_canaries(caught / "canaries.json")
    object.__setattr__(planted, "included", np.ones(200, dtype=bool))
    with pytest.raises(PrivacyError, match="fell alike"):
        audit_scores(planted, np.zeros(200), np.zeros(5), delta=0.0)
