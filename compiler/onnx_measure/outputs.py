"""Texts into the inputs of a graph, and graphs into outputs, run in a child process."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.bundling.tokenizing import open_tokenizer, refused
from compiler.child.job import run_child
from compiler.errors import QuantizationError
from compiler.files import MAX_TOKENIZER_BYTES, read_bytes
from compiler.onnx_measure.feeds import load_feeds, save_feeds
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.session import open_session, run_session
from compiler.progress import Progress


def encode_texts(
    tokenizer: Path, texts: Sequence[str], *, batch: int = 32, max_tokens: int = 128
) -> list[dict[str, NDArray[np.int64]]]:
    """Return `input_ids`, `attention_mask`, `token_type_ids`, INT64 [batch, longest of them].

    Args:
        tokenizer: a tokenizer.json, whose own padding and truncation are replaced.
        texts: in the order that the rows get.
        batch: texts a run; the last one may have fewer.
        max_tokens: where a text is cut.

    Raises:
        QuantizationError: no texts.
        SourceError: a file that is no tokenizer, or one that fails on a text.
    """
    if not texts:
        raise QuantizationError("there are no texts to encode")
    tool = open_tokenizer(read_bytes(tokenizer, MAX_TOKENIZER_BYTES), tokenizer)
    padding = tool.padding or {}
    tool.enable_truncation(max_tokens)
    tool.enable_padding(
        pad_id=padding.get("pad_id", 0), pad_token=padding.get("pad_token", "[PAD]")
    )
    feeds = []
    for start in range(0, len(texts), batch):
        with refused(tokenizer, "cannot make tokens of these texts"):
            encodings = tool.encode_batch(list(texts[start : start + batch]))
        rows = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        feeds.append({name: np.array(values, np.int64) for name, values in rows.items()})
    return feeds


def run_outputs(
    path: Path, feeds: Sequence[Feeds], *, threads: int = 1, output: str | None = None
) -> NDArray[np.float32]:
    """Run a graph on each of `feeds` in a child process; return the rows of one output.

    Args:
        path: the graph, which a pre-parser has passed.
        feeds: the inputs of each run.
        threads: of the session.
        output: which output; its first one by default.

    Returns:
        FP32 [texts, width]: the runs' first axes joined, other axes than the last flattened
        into the first.

    Raises:
        QuantizationError: the graph cannot be run on these inputs.
        ChildError: the runtime crashed.
    """
    with tempfile.TemporaryDirectory(prefix="casemate-outputs-") as name:
        folder = Path(name)
        request = {
            "model": str(path.absolute()),
            "feeds": save_feeds(folder / "feeds.npz", feeds),
            "threads": threads,
            "output": output,
            "to": str(folder / "outputs.npy"),
        }
        run_child(__name__, request, of=path)
        rows: NDArray[np.float32] = np.load(folder / "outputs.npy", allow_pickle=False)
    return rows


def serve(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run the graph, in the child."""
    del progress
    session = open_session(Path(request["model"]), request["threads"])
    names = [request["output"] or session.get_outputs()[0].name]
    rows = []
    for feeds in load_feeds(request["feeds"]):
        (output,) = run_session(session, feeds, names)
        rows.append(np.asarray(output, np.float32).reshape(-1, output.shape[-1]))
    np.save(request["to"], np.concatenate(rows), allow_pickle=False)
    return {"rows": sum(len(row) for row in rows)}
