"""Tiny networks of every family and task, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.data.special import SpecialTokens
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.recipe.schema import ModelOptions, ObjectiveOptions

VOCABULARY = 61
CONTEXT = 16
SPECIAL = SpecialTokens(pad=0, unknown=1, begin=2, end=3, mask=4, separator=3)
LABELS = ("bad", "fair", "good")

# name: family, objective, other values of the model, other values of the objective
KINDS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "decoder": ("decoder", "next-token", {}, {}),
    "decoder-untied": ("decoder", "next-token", {"tie_embeddings": False, "kv_heads": 1}, {}),
    "decoder-classifier": ("decoder", "classification", {}, {}),
    "encoder-masked": ("encoder", "masked", {}, {}),
    "encoder-masked-untied": ("encoder", "masked", {"tie_embeddings": False}, {}),
    "encoder-classifier": ("encoder", "classification", {}, {}),
    "encoder-mean-classifier": ("encoder", "classification", {"pooling": "mean"}, {}),
    "encoder-tagger": ("encoder", "tagging", {}, {}),
    "encoder-embedding": ("encoder", "contrastive", {"pooling": "mean"}, {}),
    "encoder-first-embedding": ("encoder", "contrastive", {}, {}),
    "seq2seq": ("seq2seq", "infilling", {}, {}),
    "seq2seq-untied": ("seq2seq", "sequence-to-sequence", {"tie_embeddings": False}, {}),
    "lstm": ("recurrent", "next-token", {}, {}),
    "gru-untied": ("recurrent", "next-token", {"cell": "gru", "tie_embeddings": False}, {}),
    "lstm-adaptive": (
        "recurrent",
        "next-token",
        {},
        {"softmax": "adaptive", "cutoffs": (20, 40)},
    ),
    "lstm-classifier": ("recurrent", "classification", {}, {}),
    "gru-mean-classifier": ("recurrent", "classification", {"cell": "gru", "pooling": "mean"}, {}),
    "convolution": ("convolution", "classification", {"kernel_sizes": (2, 3), "filters": 5}, {}),
}
LANGUAGE = ("decoder", "decoder-untied", "seq2seq", "seq2seq-untied", "lstm", "lstm-adaptive")
TIED = ("decoder", "encoder-masked", "seq2seq", "lstm")


def model_options(kind: str, **values: Any) -> ModelOptions:
    """The model section of a kind."""
    family, _, model, _ = KINDS[kind]
    sizes = {"layers": 2, "width": 16, "heads": 2}
    return ModelOptions(**{"family": family, **sizes, **model, **values})


def objective_options(kind: str) -> ObjectiveOptions:
    """The objective section of a kind."""
    _, objective, _, more = KINDS[kind]
    return ObjectiveOptions(kind=objective, **more)


def make(kind: str, seed: int = 1, **values: Any) -> Network:
    """A tiny network, from a seed."""
    torch.manual_seed(seed)
    return build_network(
        model_options(kind, **values),
        objective_options(kind),
        vocabulary_size=VOCABULARY,
        context=CONTEXT,
        special=SPECIAL,
        labels=LABELS if KINDS[kind][1] in ("classification", "tagging") else (),
    )


def make_batch(kind: str, rows: int = 3, length: int = 10) -> dict[str, Tensor]:
    """A batch without padding; with a mask where the task has one."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    batch = {"input_ids": ids}
    family, objective, *_ = KINDS[kind]
    if objective not in ("next-token", "masked"):
        batch["attention_mask"] = torch.ones_like(ids)
    if family == "seq2seq":
        batch["decoder_input_ids"] = ids[:, :7].flip(1)
    return batch
