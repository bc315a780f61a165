"""Scores against their definitions, computed one record at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.trainer.models.networks import VOCABULARY, make
from trainer.data.batch import Batch, Item
from trainer.privacy.audit.scoring import score_records

CPU = torch.device("cpu")


class Rows:
    """Labelled rows of tokens; every other target of a tokens' row is left out."""

    fingerprint = "0" * 64

    def __init__(self, *, text_level: bool, rows: int = 7, length: int = 6) -> None:
        draw = np.random.default_rng(2)
        self._ids = draw.integers(5, VOCABULARY, (rows, length))
        if text_level:
            self._labels = draw.integers(0, 3, rows)
        else:
            self._labels = draw.integers(5, VOCABULARY, (rows, length))
            self._labels[:, ::2] = -100

    def __len__(self) -> int:
        return len(self._ids)

    def length(self, index: int) -> int:
        return 100 - index  # so that the sweep goes backwards

    def item(self, epoch: int, index: int) -> Item:
        del epoch
        return {"input_ids": self._ids[index], "labels": np.asarray(self._labels[index])}

    def where(self, epoch: int, index: int) -> str:
        return f"row {index} of epoch {epoch}"

    def collate(self, items: Sequence[Item]) -> Batch:
        ids = torch.from_numpy(np.stack([item["input_ids"] for item in items]))
        labels = torch.from_numpy(np.stack([item["labels"] for item in items]))
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def test_a_class_is_scored_by_its_odds() -> None:
    network, data = make("encoder-classifier"), Rows(text_level=True)
    found = score_records(network, data, device=CPU, batch=3)
    for index in range(len(data)):
        batch = data.collate([data.item(0, index)])
        with torch.no_grad():
            chances = network.eval()(batch).double().softmax(-1)[0]
        chance = float(chances[int(batch["labels"])])
        assert found[index] == pytest.approx(np.log(chance) - np.log1p(-chance), rel=1e-4)


@pytest.mark.parametrize("kind", ["decoder", "encoder-masked", "lstm", "lstm-adaptive"])
def test_tokens_are_scored_by_their_likelihood(kind: str) -> None:
    network, data = make(kind), Rows(text_level=False)
    found = score_records(network, data, device=CPU, batch=4)
    for index in range(len(data)):
        batch = data.collate([data.item(0, index)])
        with torch.no_grad():
            logprobs = network.eval()(batch)[0].double().log_softmax(-1)
        labels = batch["labels"][0].tolist()
        expected = sum(float(logprobs[at, one]) for at, one in enumerate(labels) if one != -100)
        assert found[index] == pytest.approx(expected, rel=1e-4)


def test_a_reference_is_taken_off_and_modes_are_kept() -> None:
    network, reference = make("decoder", seed=1), make("decoder", seed=2)
    data = Rows(text_level=False)
    network.train()
    reference.eval()
    seen: list[tuple[int, int]] = []
    calibrated = score_records(
        network,
        data,
        device=CPU,
        reference=reference,
        progress=lambda done, total: seen.append((done, total)),
    )
    alone = score_records(network, data, device=CPU)
    other = score_records(reference, data, device=CPU)
    assert calibrated == pytest.approx(alone - other)
    assert np.abs(other).min() > 0
    assert network.training
    assert not reference.training
    assert seen[-1] == (7, 7)


def test_margins_tell_records_apart_that_are_all_known_by_heart() -> None:
    """Where the loss is 0 in float32, the odds still differ."""
    network, data = make("convolution"), Rows(text_level=True)
    head = network.output
    assert isinstance(head, torch.nn.Module)
    with torch.no_grad():
        torch._foreach_mul_(list[torch.Tensor](head.parameters()), 1e4)
    found = np.abs(score_records(network, data, device=CPU))
    assert found.min() > 30
    assert np.unique(found).size == len(data)
