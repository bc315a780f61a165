"""Canaries in a data set: every one has a place, and those left out teach nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.data.tiny import tokenizer as tiny_tokenizer
from tests.trainer.privacy.audit.small import (
    DATA,
    LABELS,
    OBJECTIVE,
    RECORDS,
    new_network,
    setup,
)
from trainer.data.batch import IGNORED, HasLengths
from trainer.data.record_table import table_of
from trainer.data.record_text import RecordText, record_layout, with_objective
from trainer.objectives.build import build_objective
from trainer.privacy.audit.insertion import prepare_canaries, record_data, with_canaries
from trainer.privacy.errors import PrivacyError
from trainer.recipe.schema import DataOptions, ObjectiveOptions

TEXT = DataOptions(sequence_length=20)


def test_every_canary_has_a_place_after_the_records(tmp_path: Path) -> None:
    made = setup(tmp_path, 40)
    assert len(made.data) == RECORDS + 40
    for index in (0, RECORDS - 1):
        kept, own = made.data.item(0, index), made.base.item(0, index)
        assert all((kept[name] == own[name]).all() for name in own)
    for number, coin in enumerate(made.canaries.included):
        item = made.data.item(0, RECORDS + number)
        label = int(item["labels"])
        assert made.canaries.records.classes is not None
        assert label == (int(made.canaries.records.classes[number]) if coin else IGNORED)
        assert made.data.where(0, RECORDS + number) == f"canaries.json:{number + 1}"


def test_a_canary_that_was_left_out_has_no_gradient(tmp_path: Path) -> None:
    made = setup(tmp_path, 40)
    network = new_network(made.tokenizer)
    objective = build_objective(OBJECTIVE, network)

    def moves(number: int) -> bool:
        network.zero_grad()
        batch = made.data.collate([made.data.item(0, RECORDS + number)])
        objective(network, batch).total.backward()
        return any(bool(each.grad.any()) for each in network.parameters() if each.grad is not None)

    assert [moves(number) for number in range(40)] == made.canaries.included.tolist()


def test_lengths_are_told_where_the_records_tell_them(tmp_path: Path) -> None:
    made = setup(tmp_path, 10)
    assert isinstance(made.data, HasLengths)
    assert made.data.length(0) == 8
    assert made.data.length(RECORDS) == 16


def test_each_canary_is_a_user_of_its_own(tmp_path: Path) -> None:
    made = setup(tmp_path, 3)
    users = [np.arange(0, 150), np.arange(150, RECORDS)]
    groups = made.data.groups(users)
    assert [group.tolist() for group in groups[2:]] == [[RECORDS], [RECORDS + 1], [RECORDS + 2]]
    assert sum(len(group) for group in groups) == len(made.data)


def test_the_fingerprint_commits_to_the_coins(tmp_path: Path) -> None:
    made = setup(tmp_path, 10)
    flipped = made.canaries.included.copy()
    flipped[0] = ~flipped[0]
    before = made.data.fingerprint
    object.__setattr__(made.canaries, "included", flipped)
    after = with_canaries(
        made.base,
        made.canaries,
        objective=OBJECTIVE,
        data=DATA,
        tokenizer=made.tokenizer,
        labels=LABELS,
    )
    assert after.fingerprint != before


def test_a_resumed_run_keeps_its_coins(tmp_path: Path) -> None:
    first, again = setup(tmp_path, 10), setup(tmp_path, 10)
    assert first.canaries.digest == again.canaries.digest
    assert first.data.fingerprint == again.data.fingerprint


def test_another_run_s_canaries_are_refused(tmp_path: Path) -> None:
    setup(tmp_path, 10)
    with pytest.raises(PrivacyError, match="belongs to a run with other data"):
        setup(tmp_path, 11)


@pytest.mark.parametrize("kind", ["tagging", "contrastive", "sequence-to-sequence"])
def test_tasks_without_canaries_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(PrivacyError, match=kind):
        prepare_canaries(
            tmp_path / "canaries.json",
            10,
            objective=ObjectiveOptions(kind=kind),
            data=DATA,
            tokenizer=tiny_tokenizer(),
            labels=("a", "b"),
            units=10,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "tokens", "family"),
    [
        ("next-token", "bpe", "decoder"),
        ("masked", "wordpiece", "encoder"),
        ("infilling", "bpe", "seq2seq"),
    ],
)
def test_records_of_running_text(tmp_path: Path, kind: str, tokens: str, family: str) -> None:
    tokenizer = tiny_tokenizer(tokens, family)
    objective = ObjectiveOptions(kind=kind, softmax="full")
    rows = [np.array([tokenizer.vocabulary_size - 1 - n for n in range(9)]) for _ in range(6)]
    layout = record_layout(tokenizer, objective, TEXT)
    base = with_objective(
        RecordText(table_of(rows, Path("notes.txt")), layout), objective, tokenizer, 1
    )
    planted = prepare_canaries(
        tmp_path / "canaries.json",
        8,
        objective=objective,
        data=TEXT,
        tokenizer=tokenizer,
        labels=(),
        units=len(base),
    )
    data = with_canaries(
        base, planted, objective=objective, data=TEXT, tokenizer=tokenizer, labels=()
    )
    batch = data.collate([data.item(0, index) for index in range(len(data))])
    has_target = (batch["labels"] != IGNORED).any(dim=1)
    assert has_target.tolist() == [True] * 6 + planted.included.tolist()
    if kind == "next-token":
        first = batch["input_ids"][6]
        ids = torch.from_numpy(planted.records.ids[0])
        assert torch.equal(first[len(layout.frame.before) :][: len(ids)], ids)


def test_pairs_share_the_tokens_of_a_canary(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    data = DataOptions(sequence_length=16, pair_field="second")
    planted = prepare_canaries(
        tmp_path / "canaries.json",
        4,
        objective=OBJECTIVE,
        data=data,
        tokenizer=tokenizer,
        labels=LABELS,
        units=10,
    )
    records = record_data(
        planted.records, objective=OBJECTIVE, data=data, tokenizer=tokenizer, labels=LABELS
    )
    row = records.item(0, 0)["input_ids"]
    assert row.size <= data.sequence_length
    inside = [token for token in row.tolist() if token not in tokenizer.special.all()]
    assert inside == planted.records.ids[0].tolist()
