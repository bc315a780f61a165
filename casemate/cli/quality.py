"""A measured quality of a model's form in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def quality_text(quality: Mapping[str, Any] | None) -> str:
    """Return the figures of a quality that were measured, in a few words."""
    if quality is None:
        return "not measured"
    words = {
        "kl_mean": "KL {:.4f}",
        "perplexity_ratio": "perplexity x{:.3f}",
        "top1": "same first {:.1%}",
        "accuracy_drop": "accuracy {:+.2%} lost",
        "spearman": "Spearman {:.4f}",
    }
    found = [text.format(quality[key]) for key, text in words.items() if quality[key] is not None]
    if not found:
        return "not measured"
    what = "texts" if quality["perplexity"] is None else "tokens"
    return f"{', '.join(found)}, on {quality['samples']:,} {what}"
