"""A network after a prompt, one token at a time.

All prompts of a batch have the same number of tokens, so that nothing is padded and no
row depends on another. A transformer keeps keys and values; another network computes the
text so far anew, which costs more and is the same.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import Cache

from trainer.models.decoder import Decoder
from trainer.models.network import Network
from trainer.privacy.synthesis.errors import SynthesisError


class Continuation(Protocol):
    """The state of a batch of texts."""

    def feed(self, ids: Tensor) -> Tensor:
        """Take the next tokens, i64[B, T]; return the logits after the last, float[B, V]."""

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the texts only: i64[K], ascending."""


class CachedContinuation:
    """A decoder with its keys and values."""

    def __init__(self, network: Decoder) -> None:
        self._network = network
        # The first call makes it: which kind of cache it is, the architecture knows.
        self._cache: Cache | None = None

    def feed(self, ids: Tensor) -> Tensor:
        """See `Continuation`."""
        states = self._network.base(
            input_ids=ids, past_key_values=self._cache, use_cache=True, return_dict=True
        )
        self._cache = states.past_key_values
        last: Tensor = self._network.added(states.last_hidden_state[:, -1])
        return self._network.logits(last)

    def keep(self, rows: Tensor) -> None:
        """See `Continuation`."""
        if not isinstance(self._cache, Cache):
            kind = self._network.core.config.model_type
            raise SynthesisError(f"a {kind!r} network keeps no keys and values per text")
        self._cache.batch_select_indices(rows)


class RepeatedContinuation:
    """Any network that predicts the next token: the whole text goes through it each time."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._text: Tensor | None = None

    def feed(self, ids: Tensor) -> Tensor:
        """See `Continuation`."""
        self._text = ids if self._text is None else torch.cat([self._text, ids], dim=1)
        hidden = self._network.hidden({"input_ids": self._text})
        return self._network.logits(hidden[:, -1])

    def keep(self, rows: Tensor) -> None:
        """See `Continuation`."""
        if self._text is not None:
            self._text = self._text[rows]


def begin(network: Network) -> Continuation:
    """Return the fastest continuation that a network has."""
    if isinstance(network, Decoder):
        return CachedContinuation(network)
    return RepeatedContinuation(network)
