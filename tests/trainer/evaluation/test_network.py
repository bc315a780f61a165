"""Evaluations against naive loops that see one item at a time and all logits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from tests.trainer.evaluation.checkpoints import (
    CONTEXT,
    LABELS,
    TAGS,
    TASKS,
    Made,
    make,
    write_data,
)
from trainer.data.assemble import evaluation_data
from trainer.data.batch import IGNORED, DataSet, HasBytes
from trainer.errors import DataError, DivergenceError, RecipeError
from trainer.evaluation.network import evaluate_network
from trainer.evaluation.result import EvaluationResult
from trainer.evaluation.spans import spans_of
from trainer.evaluation.tallies import retrieval_ranks

CPU = torch.device("cpu")
TOKEN_TASKS = ("decoder", "recurrent", "masked", "seq2seq", "infilling", "tagger")


def data_of(made: Made, task: str, folder: Path) -> DataSet:
    return evaluation_data(
        [str(write_data(task, folder))],
        objective=made.recipe.objective,
        data=made.recipe.data,
        tokenizer=made.tokenizer,
        labels=made.network.labels,
        folder=folder / "scratch",
    )


def measure(made: Made, dataset: DataSet, **changes: object) -> EvaluationResult:
    values = {"device": CPU, "batch": 4, **changes}
    return evaluate_network(made.network, made.recipe.objective, dataset, **values)  # type: ignore[arg-type]


@torch.no_grad()
def guesses(made: Made, dataset: DataSet) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return (logits, labels) of the targets of each item, one item at a time."""
    made.network.eval()
    found = []
    for index in range(len(dataset)):
        batch = dataset.collate([dataset.item(0, index)])
        logits, labels = made.network(batch), batch["labels"]
        found.append((logits[labels != IGNORED], labels[labels != IGNORED]))
    return found


@pytest.mark.parametrize("task", [task for task in TASKS if task != "embedding"])
def test_loss_and_accuracy_match_a_naive_loop(task: str, tmp_path: Path) -> None:
    made = make(task)
    dataset = data_of(made, task, tmp_path)
    result = measure(made, dataset)
    each = guesses(made, dataset)
    total = sum(float(cross_entropy(logits, labels, reduction="sum")) for logits, labels in each)
    targets = sum(len(labels) for _, labels in each)
    right = sum(int((logits.argmax(-1) == labels).sum()) for logits, labels in each)
    assert (result.examples, result.targets) == (len(dataset), targets)
    assert result.loss == pytest.approx(total / targets, rel=1e-5)
    assert result.metrics["accuracy"] == pytest.approx(right / targets)
    assert result.objective == TASKS[task][1]


@pytest.mark.parametrize("task", ["decoder", "recurrent"])
def test_running_text_has_perplexity_and_bits_per_byte(task: str, tmp_path: Path) -> None:
    made = make(task)
    dataset = data_of(made, task, tmp_path)
    result = measure(made, dataset, bytes_per_token=5.5)
    assert result.metrics["perplexity"] == pytest.approx(math.exp(result.loss))
    assert result.metrics["bits_per_byte"] == pytest.approx(result.loss / math.log(2) / 5.5)
    # Asked of the data set itself where it is not given: words do not hold all of a text.
    assert isinstance(dataset, HasBytes)
    assert dataset.bytes_per_token is None
    assert "bits_per_byte" not in measure(made, dataset).metrics


@pytest.mark.parametrize("task", ["masked", "infilling", "seq2seq"])
def test_text_that_is_partly_given_has_no_bits_per_byte(task: str, tmp_path: Path) -> None:
    made = make(task)
    figures = measure(made, data_of(made, task, tmp_path)).metrics
    assert "bits_per_byte" not in figures
    assert "perplexity" in figures


def test_classification_counts_every_pair_of_labels(tmp_path: Path) -> None:
    made = make("classifier")
    dataset = data_of(made, "classifier", tmp_path)
    result = measure(made, dataset)
    confusion = [[0, 0], [0, 0]]
    for logits, labels in guesses(made, dataset):
        confusion[int(labels)][int(logits.argmax())] += 1
    assert [list(row) for row in result.confusion] == confusion
    assert result.labels == LABELS
    assert list(result.per_label) == list(LABELS)
    low, high = result.intervals["accuracy"]
    assert low < result.metrics["accuracy"] < high
    assert sum(one.count for one in result.reliability) == len(dataset)


def test_confidence_is_the_probability_of_the_guess(tmp_path: Path) -> None:
    made = make("convolution")
    dataset = data_of(made, "convolution", tmp_path)
    result = measure(made, dataset)
    sure = [float(logits.softmax(-1).max()) for logits, _ in guesses(made, dataset)]
    mean = sum(one.count * one.confidence for one in result.reliability) / len(dataset)
    assert mean == pytest.approx(sum(sure) / len(sure), rel=1e-5)


def test_spans_are_those_of_each_text(tmp_path: Path) -> None:
    made = make("tagger")
    dataset = data_of(made, "tagger", tmp_path)
    result = measure(made, dataset)
    hits = wanted = found = 0
    for logits, labels in guesses(made, dataset):
        true = spans_of([TAGS[one] for one in labels.tolist()])
        guessed = spans_of([TAGS[one] for one in logits.argmax(-1).tolist()])
        hits, wanted, found = hits + len(true & guessed), wanted + len(true), found + len(guessed)
    assert wanted > 10
    assert result.metrics["span_f1"] == pytest.approx(2 * hits / (wanted + found))
    assert list(result.per_label) == ["TREE"]
    # The matrix is of tags all the same.
    assert result.labels == TAGS


def test_partners_are_looked_for_in_the_whole_set(tmp_path: Path) -> None:
    made = make("embedding")
    dataset = data_of(made, "embedding", tmp_path)
    result = measure(made, dataset)
    firsts, seconds = [], []
    with torch.no_grad():
        for index in range(len(dataset)):
            batch = dataset.collate([dataset.item(0, index)])
            firsts.append(made.network.hidden(batch)[0])
            pair = {name: batch[f"pair_{name}"] for name in ("input_ids", "attention_mask")}
            seconds.append(made.network.hidden(pair)[0])
    ranks = []
    for index, first in enumerate(firsts):
        near = [float(cosine_similarity(first, second, dim=0)) for second in seconds]
        ranks.append(sorted(near, reverse=True).index(near[index]) + 1)
    assert result.metrics["recall_at_1"] == pytest.approx(sum(r <= 1 for r in ranks) / len(ranks))
    assert result.metrics["recall_at_10"] == pytest.approx(sum(r <= 10 for r in ranks) / len(ranks))
    mean = sum(1 / rank for rank in ranks) / len(ranks)
    assert result.metrics["mean_reciprocal_rank"] == pytest.approx(mean)


def test_a_pair_alone_in_its_pass_still_takes_part_in_the_search(tmp_path: Path) -> None:
    made = make("embedding")
    dataset = data_of(made, "embedding", tmp_path)
    # 30 pairs: the last pass has one, which has no loss.
    result = measure(made, dataset, batch=29)
    assert (result.examples, result.targets) == (30, 29)
    assert result.metrics == measure(made, dataset, batch=15).metrics
    with pytest.raises(DataError, match="at least two to a pass"):
        measure(made, dataset, batch=1)


def test_one_point_for_everything_finds_nothing() -> None:
    same = torch.ones(5, 3) / math.sqrt(3)
    assert retrieval_ranks(same, same).tolist() == [5] * 5


def test_itself_is_found_at_once() -> None:
    directions = torch.nn.functional.normalize(torch.randn(2000, 8), dim=-1)
    assert retrieval_ranks(directions, directions).tolist() == [1] * 2000


@pytest.mark.parametrize("task", ["decoder", "classifier", "tagger"])
def test_the_size_of_a_pass_does_not_matter(task: str, tmp_path: Path) -> None:
    made = make(task)
    dataset = data_of(made, task, tmp_path)
    one, many = measure(made, dataset, batch=1), measure(made, dataset, batch=64)
    assert one.loss == pytest.approx(many.loss, rel=1e-5)
    assert one.confusion == many.confusion
    assert dict(one.metrics) == pytest.approx(dict(many.metrics), rel=1e-5)


def test_only_so_many_are_taken_and_progress_is_told(tmp_path: Path) -> None:
    made = make("classifier")
    dataset = data_of(made, "classifier", tmp_path)
    told: list[tuple[int, int]] = []
    result = measure(
        made, dataset, sequences=10, progress=lambda seen, total: told.append((seen, total))
    )
    assert result.examples == 10
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_the_network_and_the_random_state_stay_as_they_were(tmp_path: Path) -> None:
    made = make("decoder", dropout=0.5)
    dataset = data_of(made, "decoder", tmp_path)
    made.network.train()
    state = torch.get_rng_state()
    first = measure(made, dataset)
    assert made.network.training
    assert torch.equal(torch.get_rng_state(), state)
    # Without dropout: the same again.
    assert measure(made, dataset).loss == first.loss
    assert all(parameter.grad is None for parameter in made.network.parameters())


@pytest.mark.parametrize("task", ["decoder", "classifier", "embedding"])
def test_damaged_weights_are_an_error(task: str, tmp_path: Path) -> None:
    made = make(task)
    dataset = data_of(made, task, tmp_path)
    with torch.no_grad():
        next(made.network.parameters()).fill_(math.nan)
    with pytest.raises(DivergenceError, match="no number"):
        measure(made, dataset)


def test_labels_without_names_are_an_error(tmp_path: Path) -> None:
    made = make("classifier")
    dataset = data_of(made, "classifier", tmp_path)
    with pytest.raises(RecipeError, match="names none"):
        measure(made, dataset, labels=())


class NoTargets:
    """Two texts in which nothing is to be predicted."""

    fingerprint = "00" * 32

    def __len__(self) -> int:
        return 2

    def item(self, epoch: int, index: int) -> dict[str, object]:
        return {}

    def where(self, epoch: int, index: int) -> str:
        return "nowhere"

    def collate(self, items: object) -> dict[str, torch.Tensor]:
        ids = torch.zeros(2, CONTEXT, dtype=torch.int64)
        mask = torch.ones_like(ids)
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.full_like(ids, IGNORED)}


@pytest.mark.parametrize("task", ["decoder", "tagger"])
def test_nothing_to_predict_is_an_error(task: str) -> None:
    with pytest.raises(DataError, match="no target"):
        measure(make(task), NoTargets())  # type: ignore[arg-type]
