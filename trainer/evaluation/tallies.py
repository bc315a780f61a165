"""What an evaluation adds up, one kind of task a class.

Each tally takes batches in evaluation mode and gives an `EvaluationResult` at the end.
Sums are float64 on the CPU; logits exist for one batch at a time, and for language
models not at all (the objective computes the loss in chunks).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.data.batch import IGNORED, Batch
from trainer.errors import DataError, DivergenceError
from trainer.evaluation import metrics
from trainer.evaluation.metrics import Integers
from trainer.evaluation.result import EvaluationResult
from trainer.evaluation.spans import is_span_scheme, span_figures
from trainer.models.network import Network
from trainer.objectives.loss import Objective

# Rows of the similarity matrix that exist at one time.
_RETRIEVAL_ROWS = 1024


class Tally(ABC):
    """Adds up batches."""

    @abstractmethod
    def add(self, network: Network, batch: Batch) -> None:
        """Take a batch; it is on the network's device, gradients are off."""

    @abstractmethod
    def result(self, kind: str, examples: int, seconds: float) -> EvaluationResult:
        """Return the figures of all batches.

        Args:
            kind: the objective, for the result.
            examples: how many items were seen.
            seconds: how long it took.

        Raises:
            DataError: there was no target among them.
            DivergenceError: the loss is no number.
        """


def mean_loss(total: float, targets: int) -> float:
    """Return a mean loss in nats.

    Raises:
        DataError: there are no targets.
        DivergenceError: it is no number.
    """
    if targets == 0:
        raise DataError("there is nothing to measure: the data holds no target to predict")
    if not math.isfinite(total):
        raise DivergenceError("the loss is no number: the checkpoint's weights are damaged")
    return total / targets


class LanguageTally(Tally):
    """Tokens predicted by a language model.

    Args:
        objective: computes the sums.
        bytes_per_token: UTF-8 bytes of the text for each target, where that is known;
            without it there are no bits per byte.
    """

    def __init__(self, objective: Objective, bytes_per_token: float | None) -> None:
        self._objective = objective
        self._bytes_per_token = bytes_per_token
        self._plain = 0.0
        self._targets = 0
        self._correct: int | None = 0

    def add(self, network: Network, batch: Batch) -> None:
        """See `Tally`."""
        loss = self._objective(network, batch)
        self._plain += float(loss.plain)
        self._targets += int(loss.count)
        if loss.correct is None or self._correct is None:
            self._correct = None
        else:
            self._correct += int(loss.correct)

    def result(self, kind: str, examples: int, seconds: float) -> EvaluationResult:
        """See `Tally`."""
        loss = mean_loss(self._plain, self._targets)
        figures = {"perplexity": metrics.perplexity(loss)}
        if self._bytes_per_token:
            figures["bits_per_byte"] = metrics.bits_per_byte(loss, self._bytes_per_token)
        if self._correct is not None:
            figures["accuracy"] = self._correct / self._targets
        return EvaluationResult(kind, examples, self._targets, seconds, loss, figures)


class LabelTally(Tally):
    """Labels of texts or of words.

    Args:
        labels: names of the classes, in order.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._loss = 0.0
        self._truth: list[Integers] = []
        self._predicted: list[Integers] = []
        self._confidence: list[metrics.Floats] = []
        self._sizes: list[int] = []

    def add(self, network: Network, batch: Batch) -> None:
        """See `Tally`."""
        labels = batch["labels"]
        chosen = labels != IGNORED
        # Targets of each text, so that tags can be put together to spans again.
        self._sizes += chosen.reshape(len(labels), -1).sum(1).tolist()
        self._add(network(batch)[chosen], labels[chosen])

    def _add(self, logits: Tensor, truth: Tensor) -> None:
        chances = torch.log_softmax(logits.double(), dim=-1)
        best, predicted = chances.max(dim=-1)
        self._loss -= float(chances.gather(-1, truth[:, None]).sum())
        self._truth.append(truth.cpu().numpy())
        self._predicted.append(predicted.cpu().numpy())
        self._confidence.append(np.clip(best.exp().cpu().numpy(), 0.0, 1.0))

    def result(self, kind: str, examples: int, seconds: float) -> EvaluationResult:
        """See `Tally`."""
        truth, predicted = np.concatenate(self._truth), np.concatenate(self._predicted)
        loss = mean_loss(self._loss, truth.size)
        confusion = metrics.confusion_matrix(truth, predicted, len(self._labels))
        each = metrics.label_figures(confusion)
        bins = metrics.reliability_bins(np.concatenate(self._confidence), truth == predicted)
        right = int(np.trace(confusion))
        figures = {
            "accuracy": metrics.accuracy(confusion),
            "f1_macro": metrics.macro_f1(each),
            "f1_micro": metrics.micro_f1(confusion),
            "expected_calibration_error": metrics.expected_calibration_error(bins),
        }
        by_name = dict(zip(self._labels, each, strict=True))
        if kind == "tagging" and is_span_scheme(self._labels):
            spans, kinds = span_figures(self._texts(truth), self._texts(predicted))
            figures |= {
                "span_f1": spans.f1,
                "span_precision": spans.precision,
                "span_recall": spans.recall,
            }
            by_name = kinds
        return EvaluationResult(
            objective=kind,
            examples=examples,
            targets=int(truth.size),
            seconds=seconds,
            loss=loss,
            metrics=figures,
            intervals={"accuracy": metrics.wilson_interval(right, int(truth.size))},
            labels=self._labels,
            per_label=by_name,
            confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
            reliability=tuple(bins),
        )

    def _texts(self, classes: Integers) -> list[list[str]]:
        ends = np.cumsum(self._sizes)[:-1]
        return [[self._labels[one] for one in text] for text in np.split(classes, ends)]


class PairTally(Tally):
    """Embeddings of texts that belong together: how well each finds its partner.

    Each first text looks for its partner among all second texts of the set by cosine
    similarity: recall at 1 and 10 and the mean reciprocal rank. A rank counts ties as
    losses, so that a network that maps everything to one point finds nothing.

    Args:
        objective: computes the loss within a batch.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._plain = 0.0
        self._targets = 0
        self._firsts: list[Tensor] = []
        self._seconds: list[Tensor] = []

    def add(self, network: Network, batch: Batch) -> None:
        """See `Tally`."""
        loss = self._objective(network, batch)
        self._plain += float(loss.plain)
        self._targets += int(loss.count)
        pair = {
            "input_ids": batch["pair_input_ids"],
            "attention_mask": batch["pair_attention_mask"],
        }
        self._firsts.append(_direction(network.hidden(batch)))
        self._seconds.append(_direction(network.hidden(pair)))

    def result(self, kind: str, examples: int, seconds: float) -> EvaluationResult:
        """See `Tally`."""
        if self._targets == 0:
            raise DataError(
                "pairs are told from one another within a pass, and no pass had two of them; "
                "give at least two pairs, and at least two to a pass (batch)"
            )
        loss = mean_loss(self._plain, self._targets)
        ranks = retrieval_ranks(torch.cat(self._firsts), torch.cat(self._seconds))
        found = ranks <= 1
        figures = {
            "recall_at_1": float(found.mean()),
            "recall_at_10": float((ranks <= 10).mean()),
            "mean_reciprocal_rank": float((1.0 / ranks).mean()),
        }
        return EvaluationResult(
            kind,
            examples,
            self._targets,
            seconds,
            loss,
            figures,
            {"recall_at_1": metrics.wilson_interval(int(found.sum()), len(ranks))},
            notes=(f"Each text looks for its partner among {len(ranks):,}.",),
        )


def retrieval_ranks(firsts: Tensor, seconds: Tensor) -> Integers:
    """Return the rank of each text's partner among all, 1 being the best: i64[N].

    Args:
        firsts: f32[N, D], unit length.
        seconds: f32[N, D]; row i belongs to row i of `firsts`.
    """
    ranks = []
    for start in range(0, len(firsts), _RETRIEVAL_ROWS):
        rows = firsts[start : start + _RETRIEVAL_ROWS]
        similarity = rows @ seconds.T
        own = similarity.diagonal(offset=start)[:, None]
        # The partner itself is among those at least as near: its rank is their number.
        ranks.append((similarity >= own).sum(dim=1))
    return torch.cat(ranks).cpu().numpy().astype(np.int64)


def _direction(embedding: Tensor) -> Tensor:
    return torch.nn.functional.normalize(embedding.float(), dim=-1).cpu()
