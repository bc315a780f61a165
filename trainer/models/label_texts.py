"""An output layer that begins with what its labels mean.

A few public texts describe each label ("a wonderful film", "a waste of time"). The network
turns them into vectors, and the output layer starts as the classifier that tells their
means apart, instead of from random values: right more often than by chance before any
example was seen, and with a direction from the first update on. In private training that
saves updates, each of which costs privacy; the texts cost nothing as long as nobody took
them from the private data.

The same idea as classification by the class's name (Chang et al. 2008) and prompts in
place of a fresh classifier (Schick and Schuetze 2021), for networks that embed texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.data.batch import Batch
from trainer.data.pieces import Frame
from trainer.data.tokenization import Tokenizer
from trainer.errors import RecipeError
from trainer.models.network import Network

_SEPARATOR = "="
_SMALLEST_NORM = 1e-6


def parse_label_texts(given: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the texts of each label, in the labels' order.

    Args:
        given: "label=text" each.
        labels: those that the network tells apart.

    Raises:
        RecipeError: an entry without a label or a text, an unknown label, or a label
            without any text.
    """
    texts: dict[str, list[str]] = {label: [] for label in labels}
    for number, entry in enumerate(given, start=1):
        label, separator, text = entry.partition(_SEPARATOR)
        if not separator or not text.strip():
            raise RecipeError(f"parts.label_texts: entry {number} is not of the form label=text")
        if label.strip() not in texts:
            raise RecipeError(
                f"parts.label_texts: entry {number} is for a label that the data does not have; "
                f"its labels are {', '.join(labels)}"
            )
        texts[label.strip()].append(text.strip())
    missing = [label for label, found in texts.items() if not found]
    if missing:
        raise RecipeError(f"parts.label_texts: no text for the label {missing[0]!r}")
    return {label: tuple(found) for label, found in texts.items()}


def start_from_texts(
    network: Network, tokenizer: Tokenizer, given: Sequence[str], scale: float
) -> None:
    """Set the output layer, in place, to the classifier that the labels' texts give.

    With v_k the mean vector of label k's texts and c the mean of all v_k, row k is
    (v_k - c) * scale / |v_k - c|^2 and its bias is -row_k . c; so the mean of a label's
    texts gets the logit `scale` from its own row, and c gets 0 from all.

    Args:
        network: a classifier on the CPU whose parts are in place.
        tokenizer: the network's.
        given: "label=text" each.
        scale: above 0.

    Raises:
        RecipeError: the network is no classifier with one output matrix, the texts of two
            labels have the same vector, or as `parse_label_texts`.
    """
    head = network.head
    if not network.labels or not isinstance(head, nn.Linear):
        raise RecipeError(
            "parts.label_texts: only a classifier with one output matrix can start from texts"
        )
    texts = parse_label_texts(given, network.labels)
    means = torch.stack(
        [_mean_vector(network, tokenizer, texts[label]) for label in network.labels]
    )
    center = means.mean(0)
    away = means - center
    lengths = away.norm(dim=1, keepdim=True)
    if float(lengths.min()) < _SMALLEST_NORM:
        raise RecipeError("parts.label_texts: the texts of different labels must differ")
    rows = away * scale / lengths.square()
    with torch.no_grad():
        head.weight.copy_(rows)
        if head.bias is not None:
            head.bias.copy_(-rows @ center)


def _mean_vector(network: Network, tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Return the mean of what the output layer gets for these texts, f32[D]."""
    frame = Frame.of(tokenizer.raw)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        found = [network.hidden(_batch(frame, tokenizer, text, network.context)) for text in texts]
    network.train(was_training)
    return torch.cat(found).float().mean(0).clone()


def _batch(frame: Frame, tokenizer: Tokenizer, text: str, context: int) -> Batch:
    ids = torch.from_numpy(frame.around(tokenizer.encode(text)))
    if len(ids) > context:
        raise RecipeError(
            f"parts.label_texts: a text has {len(ids)} tokens, and the recipe's sequences "
            f"{context}; shorten it"
        )
    return {"input_ids": ids[None], "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
