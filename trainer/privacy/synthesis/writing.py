"""Whole texts, batch after batch, from a model whose claim was verified.

A text ends at the end token or at its last allowed token; it has at least one token of the
model's own. Padding, the begin token and other special tokens are never drawn, nor ids
that the tokenizer does not know: what they would spell is nothing.

The private data is never read here: what is computed depends on weights, prompts and
draws alone. That is what lets the samples carry the model's claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.data.tokenization import Tokenizer
from trainer.evaluation.opening import OpenCheckpoint
from trainer.models.generation import generating
from trainer.privacy.synthesis.continuation import begin
from trainer.privacy.synthesis.drawing import draw_tokens
from trainer.privacy.synthesis.prompts import Start, schedule
from trainer.privacy.synthesis.settings import Sampling


@dataclass(frozen=True, slots=True)
class SyntheticText:
    """A text that was written.

    Attributes:
        text: prompt and continuation.
        prompt: number of the prompt; None without prompts.
        tokens: new ones, the end token not counted.
        ended: whether the model ended it, and not the limit.
    """

    text: str = field(repr=False)
    prompt: int | None
    tokens: int
    ended: bool


def write_texts(
    checkpoint: OpenCheckpoint,
    starts: Sequence[Start],
    count: int,
    sampling: Sampling,
    max_tokens: int,
) -> Iterator[SyntheticText]:
    """Yield `count` texts.

    The same seed, batch and prompts give the same texts on the same machine. The global
    random state is not used.

    Args:
        checkpoint: a model that predicts the next token.
        starts: what texts begin with; see `prompts.schedule` for their shares.
        count: of texts.
        sampling: how tokens are drawn.
        max_tokens: new tokens of a text, 1 or more; prompts and these fit the positions.

    Raises:
        SynthesisError: the model gives no probabilities.
    """
    generator = torch.Generator(device=checkpoint.device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    writer = _Writer(checkpoint, sampling, generator, max_tokens)
    for batch in schedule(starts, count, sampling.batch):
        for start, (ids, ended) in zip(batch.starts, writer.write(batch.starts), strict=True):
            whole = [*start.ids, *ids]
            text = checkpoint.tokenizer.decode(whole, skip_special=True)
            yield SyntheticText(text, start.number, len(ids), ended)


def undrawable(tokenizer: Tokenizer, vocabulary_size: int) -> Tensor:
    """Return which ids may never be drawn, bool[V]; the end token may."""
    known = set(tokenizer.raw.get_vocab(with_added_tokens=True).values())
    added = tokenizer.raw.get_added_tokens_decoder()
    special = tokenizer.special.all() | {token for token, one in added.items() if one.special}
    allowed = (known - special) | ({tokenizer.special.end} - {None})
    barred = torch.ones(vocabulary_size, dtype=torch.bool)
    barred[[token for token in allowed if token is not None and token < vocabulary_size]] = False
    return barred


class _Writer:
    """Writes batches, one after the other, with one generator."""

    def __init__(
        self,
        checkpoint: OpenCheckpoint,
        sampling: Sampling,
        generator: torch.Generator,
        max_tokens: int,
    ) -> None:
        self._network = checkpoint.network
        self._device = checkpoint.device
        self._sampling = sampling
        self._generator = generator
        self._max_tokens = max_tokens
        self._end = checkpoint.tokenizer.special.end
        barred = undrawable(checkpoint.tokenizer, checkpoint.network.vocabulary_size)
        self._barred = barred.to(self._device)

    def write(self, starts: Sequence[Start]) -> list[tuple[list[int], bool]]:
        """Return the new tokens of each text, and whether the model ended it."""
        written: list[list[int]] = [[] for _ in starts]
        ended = [False] * len(starts)
        live = list(range(len(starts)))
        feed = torch.tensor([start.ids for start in starts], device=self._device)
        with generating(self._network):
            texts = begin(self._network)
            for position in range(self._max_tokens):
                drawn = self._draw(texts.feed(feed), first=position == 0)
                kept = []
                for row, token in enumerate(drawn.tolist()):
                    ended[live[row]] = token == self._end
                    if token != self._end:
                        written[live[row]].append(token)
                        kept.append(row)
                if not kept:
                    break
                if len(kept) < len(live):
                    rows = torch.tensor(kept, device=self._device)
                    texts.keep(rows)
                    drawn = drawn[rows]
                    live = [live[row] for row in kept]
                feed = drawn[:, None]
        return list(zip(written, ended, strict=True))

    def _draw(self, logits: Tensor, *, first: bool) -> Tensor:
        logits = logits.masked_fill(self._barred, -torch.inf)
        if first and self._end is not None:
            logits[:, self._end] = -torch.inf
        return draw_tokens(logits, self._sampling, self._generator)
