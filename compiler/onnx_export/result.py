"""What an export came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """A folder with one graph or several, and what is needed to use them.

    Attributes:
        folder: holds the graphs, config.json and the tokenizer's files.
        graphs: the graph files; one, called model.onnx, unless a cache was asked for.
        task: in optimum's words: "text-generation", "text2text-generation", "fill-mask",
            "text-classification", "token-classification", "question-answering" (outputs
            `start_logits`, `end_logits`), "feature-extraction" (states of tokens, output
            `last_hidden_state`), "sentence-similarity" (one vector a
            text, output `embedding`) or "word-embedding". With a cache, "-with-past"
            stands behind.
        model_type: what config.json says.
        labels: classes in order, for the two classifications.
        has_tokenizer: whether tokenizer.json lies beside the graphs.
        opset: version of the standard operators.
        ir_version: of the ONNX file format.
        weights: SHA-256 of each weights file that was read, by name.
        tools: what made the graphs, name to version.
        peak_bytes: most memory that the exporting process held; None where no process
            was needed.
    """

    folder: Path
    graphs: tuple[Path, ...]
    task: str
    model_type: str
    labels: tuple[str, ...]
    has_tokenizer: bool
    opset: int
    ir_version: int
    weights: Mapping[str, str]
    tools: Mapping[str, str]
    peak_bytes: int | None = None

    @property
    def graph(self) -> Path:
        """The only graph, or the first of several."""
        return self.graphs[0]
