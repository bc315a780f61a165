"""The audit of a language model that learned records by heart, and of one that did not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.privacy.audit.small import word_tokenizer
from trainer.data.loader import Loader
from trainer.data.record_table import table_of
from trainer.data.record_text import RecordText, record_layout
from trainer.data.tokenization import Tokenizer
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.objectives.build import build_objective
from trainer.privacy.audit.insertion import PlantedData, prepare_canaries, with_canaries
from trainer.privacy.audit.result import Claim
from trainer.privacy.audit.run import audit_checkpoint
from trainer.recipe.schema import DataOptions, ModelOptions, ObjectiveOptions

OBJECTIVE = ObjectiveOptions(kind="next-token", softmax="full")
DATA = DataOptions(sequence_length=12)
CANARIES = 120
CLAIM = Claim(epsilon=2.0, delta=1e-5)


@dataclass(frozen=True)
class Notes:
    """A corpus of notes with canaries in it, and where canaries.json lies."""

    folder: Path
    tokenizer: Tokenizer
    data: PlantedData


def notes(folder: Path) -> Notes:
    """Sixty notes of few words, and canaries."""
    tokenizer = word_tokenizer(800)
    draw = np.random.default_rng(8)
    rows = [
        tokenizer.encode(" ".join(f"w{word}" for word in draw.integers(0, 30, 8)))
        for _ in range(60)
    ]
    layout = record_layout(tokenizer, OBJECTIVE, DATA)
    base = RecordText(table_of(rows, Path("notes.txt")), layout)
    planted = prepare_canaries(
        folder / "canaries.json",
        CANARIES,
        objective=OBJECTIVE,
        data=DATA,
        tokenizer=tokenizer,
        labels=(),
        units=len(base),
    )
    data = with_canaries(
        base, planted, objective=OBJECTIVE, data=DATA, tokenizer=tokenizer, labels=()
    )
    return Notes(folder, tokenizer, data)


def save(made: Notes, network: Network, name: str) -> Path:
    final = made.folder / name
    final.mkdir()
    network.save(final)
    made.tokenizer.save(final)
    return final


def new_network(made: Notes) -> Network:
    torch.manual_seed(4)
    return build_network(
        ModelOptions(family="recurrent", layers=1, width=48, tie_embeddings=False),
        OBJECTIVE,
        vocabulary_size=made.tokenizer.vocabulary_size,
        context=DATA.sequence_length,
        special=made.tokenizer.special,
        labels=(),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Notes:
    return notes(tmp_path_factory.mktemp("notes"))


@pytest.fixture(scope="module")
def parent(made: Notes) -> Path:
    """The model before training."""
    return save(made, new_network(made), "parent")


def test_records_learned_by_heart_are_found(made: Notes, parent: Path) -> None:
    network = new_network(made)
    objective = build_objective(OBJECTIVE, network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    with Loader(made.data, sequences=60, micro_sequences=60, seed=1) as loader:
        for step in range(120):
            (micro,) = loader.step(step)
            loss = objective(network, micro.batch)
            optimizer.zero_grad()
            (loss.total / loss.count).backward()
            optimizer.step()
    final = save(made, network, "final")
    found = audit_checkpoint(
        final,
        canaries=made.folder / "canaries.json",
        reference=parent,
        claim=CLAIM,
        device="cpu",
        batch=64,
    )
    assert found.contradicted is True
    assert found.calibrated
    assert found.canaries is not None
    assert found.canaries.exposure.mean > 5
    assert found.canaries.membership.auc > 0.95


def test_a_model_that_learned_nothing_exposes_nothing(made: Notes, parent: Path) -> None:
    found = audit_checkpoint(
        parent, canaries=made.folder / "canaries.json", claim=CLAIM, device="cpu", batch=64
    )
    assert found.contradicted is False
    assert found.canaries is not None
    assert found.canaries.bound.epsilon < 1
    assert found.canaries.exposure.mean < 3


def test_records_of_text_are_scored_line_by_line(made: Notes, parent: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(9)
    members, others = tmp_path / "members.jsonl", tmp_path / "others.jsonl"
    for path, count in ((members, 20), (others, 30)):
        rows = (" ".join(f"w{word}" for word in draw.integers(0, 30, 8)) for _ in range(count))
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    found = audit_checkpoint(parent, members=[members], nonmembers=[others], device="cpu")
    assert found.membership is not None
    assert (found.membership.members, found.membership.others) == (20, 30)
    low, high = found.membership.auc_interval
    assert low < 0.5 < high
