"""Job: the tokens of a text, as the file's own tokenizer makes them.

The text comes in the request, through a pipe: it is never on a disk.
"""

from __future__ import annotations

from typing import Any

from compiler.llama.jobs.session import Session, SessionConfig
from compiler.progress import Progress


def serve(arguments: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return {"tokens": [...]}; only the vocabulary is loaded."""
    del progress
    with Session(arguments["gguf"], SessionConfig(without_weights=True)) as session:
        return {"tokens": session.tokenize(arguments["text"])}
