"""Texts into the inputs of a graph, and graphs into outputs, run in a child process."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.child.job import run_child
from compiler.errors import QuantizationError
from compiler.onnx_measure.feeds import load_feeds, save_feeds
from compiler.onnx_measure.result import Feeds
from compiler.onnx_measure.session import open_session, run_session
from compiler.progress import Progress
from compiler.tokenizer.file import Tokens, open_tokenizer

_TOKENS_A_PROCESS: Final = 1 << 20


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
    tool = open_tokenizer(tokenizer)
    # A process answers in one line, of which there is a longest.
    share = batch * max(1, _TOKENS_A_PROCESS // (batch * max_tokens))
    feeds = []
    for first in range(0, len(texts), share):
        rows = tool.frame_texts(texts[first : first + share], max_tokens)
        feeds += [
            _padded(rows[start : start + batch], tool.padding)
            for start in range(0, len(rows), batch)
        ]
    return feeds


def _padded(rows: Sequence[Tokens], padding: int) -> dict[str, NDArray[np.int64]]:
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids = np.full(shape, padding, np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = row.ids
        mask[number, : len(row.ids)] = 1
        types[number, : len(row.types)] = row.types
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


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
