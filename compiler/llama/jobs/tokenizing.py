"""Job: the tokens of a text, as the file's own tokenizer makes them.

The text comes from a file that the parent wrote for this child alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compiler.llama.jobs.session import Session, SessionConfig
from compiler.progress import Progress


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return {"tokens": [...]}; only the vocabulary is loaded."""
    del progress
    text = Path(arguments["text"]).read_text(encoding="utf-8")
    with Session(arguments["gguf"], SessionConfig(without_weights=True)) as session:
        return {"tokens": session.tokenize(text)}
