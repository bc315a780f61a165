"""What the tests of the export share: batches with padding, and running a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

TOLERANCE = 1e-3
Feeds = Mapping[str, NDArray[np.int64]]
# Rows and tokens of a row: others than the exporter's examples have.
SHAPES = ((1, 1), (1, 7), (3, 12), (3, 3), (2, 16))


TEXTS = (
    "The river bank was steep, and",
    "money in a bank",
    "It is a truth universally acknowledged",
)


def batches(vocabulary: int, pad: int, *, longest: int = 16) -> Iterator[Feeds]:
    """Yield texts by their letters and random ids, padded at the end, rows differently."""
    for rows in (1, 3):
        letters = [[5 + byte % (vocabulary - 5) for byte in text.encode()] for text in TEXTS]
        yield padded([row[: longest - 3 * at] for at, row in enumerate(letters[:rows])], pad)
    for rows, length in SHAPES:
        tokens = min(length, longest)
        random = np.random.default_rng(rows * 100 + tokens)
        ids = random.integers(5, vocabulary, (rows, tokens))
        mask = np.ones((rows, tokens), np.int64)
        for row in range(rows):
            mask[row, max(1, tokens - 2 * row) :] = 0
        yield {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}


def padded(rows: Sequence[Sequence[int]], pad: int) -> Feeds:
    """Rows of ids as one batch."""
    longest = max(len(row) for row in rows)
    ids = [[*row, *[pad] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return {"input_ids": np.array(ids), "attention_mask": np.array(mask)}


def open_graph(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, feeds: Feeds) -> NDArray[np.float32]:
    """The first output, given the inputs that the graph has."""
    wanted = {value.name for value in session.get_inputs()}
    known: dict[str, Any] = {name: array for name, array in feeds.items() if name in wanted}
    if "token_type_ids" in wanted and "token_type_ids" not in known:
        known["token_type_ids"] = np.zeros_like(feeds["input_ids"])
    output: NDArray[np.float32] = session.run(None, known)[0]
    return output


def difference(found: NDArray[Any], expected: NDArray[Any], feeds: Feeds) -> float:
    """The largest difference, over real tokens where there is one output for each."""
    assert found.shape == expected.shape
    apart = np.abs(found.astype(np.float64) - expected)
    mask = feeds["attention_mask"]
    if "decoder_input_ids" not in feeds and found.ndim == 3:
        apart = apart[mask == 1]
    return float(apart.max())
