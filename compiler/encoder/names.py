"""Names of inputs and outputs: those of our own interface, and those of other exporters."""

from __future__ import annotations

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
EMBEDDING = "embedding"
LOGITS = "logits"

# What exporters call their outputs: one vector a text, or one a token.
POOLED_OUTPUTS = ("sentence_embedding", EMBEDDING)
HIDDEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
