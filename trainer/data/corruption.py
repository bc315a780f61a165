"""Corruption of token sequences that objectives learn to undo: masks and spans.

Pure functions of token ids and a random generator; nothing here knows of files,
epochs or batches.

Invariants:
- Masking: a position without a label holds its original token; a position with a
  label has the original token as label.
- Infilling: inputs and targets together hold every original token exactly once, in
  an order from which the original can be put together again.
- With the same length and options, infilled inputs and targets always have the same
  lengths, so that batches need no padding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.data.batch import IGNORED

Ids = NDArray[np.int64]

# Of the chosen positions: 80% become the mask token, 10% a random one, 10% stay
# (Devlin et al. 2018, BERT, section 3.1).
_MASKED_SHARE = 0.8
_RANDOM_SHARE = 0.1


def mask_tokens(
    ids: Ids,
    *,
    mask: int,
    special: Collection[int],
    vocabulary_size: int,
    probability: float,
    rng: np.random.Generator,
) -> tuple[Ids, Ids]:
    """Choose positions to predict and disturb them, as in BERT (Devlin et al. 2018).

    Special tokens are never chosen and never drawn as replacement. If chance chooses
    none, one position is chosen, so that a sequence always teaches something.

    Args:
        ids: i64[T].
        mask: id of the mask token.
        special: ids of all special tokens.
        vocabulary_size: random replacements are drawn below this.
        probability: chance of each position.
        rng: where chance comes from.

    Returns:
        inputs i64[T] and labels i64[T]; labels are IGNORED where nothing is
        predicted. A sequence of special tokens alone has no target.
    """
    known = np.array(sorted(set(special)), dtype=np.int64)
    eligible = np.flatnonzero(~np.isin(ids, known))
    labels = np.full(ids.shape, IGNORED, dtype=np.int64)
    inputs = ids.astype(np.int64, copy=True)
    if eligible.size == 0:
        return inputs, labels
    chosen = eligible[rng.random(eligible.size) < probability]
    if chosen.size == 0:
        chosen = eligible[rng.integers(eligible.size, size=1)]
    labels[chosen] = ids[chosen]
    fate = rng.random(chosen.size)
    inputs[chosen[fate < _MASKED_SHARE]] = mask
    drawn = chosen[(fate >= _MASKED_SHARE) & (fate < _MASKED_SHARE + _RANDOM_SHARE)]
    inputs[drawn] = _ordinary_tokens(drawn.size, known, vocabulary_size, rng)
    return inputs, labels


def _ordinary_tokens(
    count: int, special: Ids, vocabulary_size: int, rng: np.random.Generator
) -> Ids:
    inside = special[(special >= 0) & (special < vocabulary_size)]
    drawn = rng.integers(max(1, vocabulary_size - inside.size), size=count)
    # The n-th ordinary token: step over each special one at or below it, in order.
    for token in inside:
        drawn += drawn >= token
    return drawn


def random_spans(length: int, noise: int, spans: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Draw disjoint spans that do not touch, uniformly over all such choices.

    Other than T5's, the first span may begin at position 0 and the last need not end
    at the end, so that every position is equally able to be context.

    Args:
        length: tokens of the sequence.
        noise: tokens in all spans together; spans <= noise < length.
        spans: how many spans; at least 1, and spans - 1 <= length - noise.
        rng: where chance comes from.

    Returns:
        starts i64[spans], ascending, and lengths i64[spans], each at least 1.
    """
    lengths = 1 + _composition(noise - spans, spans, rng)
    gaps = _composition(length - noise - (spans - 1), spans + 1, rng)
    gaps[1:-1] += 1
    starts = np.cumsum(gaps[:-1]) + np.concatenate(([0], np.cumsum(lengths)[:-1]))
    return starts, lengths


def _composition(total: int, parts: int, rng: np.random.Generator) -> Ids:
    """Split `total` into `parts` numbers >= 0, uniformly (stars and bars)."""
    bars = np.sort(rng.choice(total + parts - 1, size=parts - 1, replace=False))
    edges = np.concatenate(([-1], bars, [total + parts - 1]))
    return np.diff(edges).astype(np.int64) - 1


def span_counts(length: int, probability: float, mean_span: float, limit: int) -> tuple[int, int]:
    """Return how many tokens and how many spans to infill in a sequence of `length`.

    Both depend on their arguments alone. With more spans than `limit` allows, the
    spans get longer, not fewer tokens are predicted.

    Raises:
        ValueError: a sequence of fewer than two tokens, or no sentinel at all.
    """
    if length < 2 or limit < 1:
        raise ValueError("infilling needs at least two tokens and one sentinel")
    noise = min(max(round(length * probability), 1), length - 1)
    spans = min(max(round(noise / mean_span), 1), noise, length - noise + 1, limit)
    return noise, spans


def infill_spans(
    ids: Ids,
    *,
    probability: float,
    mean_span: float,
    sentinels: Sequence[int],
    end: int | None,
    rng: np.random.Generator,
) -> tuple[Ids, Ids]:
    """Move spans of tokens from the inputs to the targets (Raffel et al. 2020, T5).

    Each span is replaced by its own sentinel; the targets are each sentinel with the
    tokens it stands for. Both end with `end` if there is such a token.

    Args:
        ids: i64[T], at least two tokens.
        probability: share of the tokens to move.
        mean_span: mean length of a span.
        sentinels: ids of the sentinels, in order of use.
        end: id of the end token.
        rng: where chance comes from.

    Returns:
        inputs i64[T - noise + spans (+1)] and targets i64[noise + spans (+1)].

    Raises:
        ValueError: fewer than two tokens, or no sentinel.
    """
    noise, spans = span_counts(ids.size, probability, mean_span, len(sentinels))
    starts, lengths = random_spans(ids.size, noise, spans, rng)
    ends = starts + lengths
    kept_from = np.concatenate(([0], ends))
    kept_to = np.concatenate((starts, [ids.size]))
    marks = np.asarray(sentinels[:spans], dtype=np.int64)
    tail = np.array([] if end is None else [end], dtype=np.int64)
    inputs: list[Ids] = []
    targets: list[Ids] = []
    for number in range(spans):
        inputs += [ids[kept_from[number] : kept_to[number]], marks[number : number + 1]]
        targets += [marks[number : number + 1], ids[starts[number] : ends[number]]]
    inputs += [ids[kept_from[spans] : kept_to[spans]], tail]
    return np.concatenate(inputs), np.concatenate([*targets, tail])
