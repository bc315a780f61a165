"""What the output layer of a stock class gives, as far as serving it goes.

A bundle of the task `classify` answers with a distribution over labels that exclude one
another. Two kinds of sequence classifiers give something else under the same class name:
regressions (one score, or `problem_type` says so) and labels that do not exclude one another.
A softmax over their scores would be wrong, so they are served as the graph's own tensors.
"""

from __future__ import annotations

from typing import Final

from compiler.files import Settings

_CLASSIFIER: Final = "ForSequenceClassification"
_REGRESSION: Final = "regression"
_SEVERAL: Final = "multi_label_classification"


def saved_as(settings: Settings) -> str:
    """Return the class that a config.json names first, or ""."""
    names = settings.raw("architectures")
    first = names[0] if isinstance(names, list) and names else ""
    return first if isinstance(first, str) else ""


def raw_scores(settings: Settings) -> str | None:
    """Return why a sequence classifier's scores are no distribution over labels, else None."""
    if not saved_as(settings).endswith(_CLASSIFIER):
        return None
    kind = settings.raw("problem_type")
    table = settings.raw("id2label")
    count = len(table) if isinstance(table, dict) else settings.raw("num_labels")
    if kind == _REGRESSION or (kind is None and count == 1):
        return "its output layer is a regression"
    if kind == _SEVERAL:
        return "its labels do not exclude one another"
    return "it has one label only" if count == 1 else None


def masked_words(settings: Settings) -> bool:
    """Tell whether the class was saved with its output layer for masked words."""
    return saved_as(settings).endswith(("ForMaskedLM", "ForPreTraining"))
