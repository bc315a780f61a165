"""Noise on training inputs: masks, deletion, word dropout, span infilling, sentence order.

Every noise is a pure function of pieces and a random generator. They apply in the order
sentence shuffling, word dropout, deletion, infilling, masking; tags move with their
tokens.

What it refuses: a noise whose replacement token the vocabulary does not have, and, on
running text, a noise that changes the number of tokens (targets are one position on).

Invariants:
- A text that has tokens keeps at least one.
- No text gets longer.
- With every share 0, the pieces come back as they are, and no random number is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.data.corruption import Ids, random_spans
from trainer.data.pieces import BEGINS_SENTENCE, BEGINS_WORD, Pieces
from trainer.data.special import SpecialTokens
from trainer.errors import RecipeError
from trainer.recipe.schema import AugmentationOptions

# Mean tokens of an infilled span (Lewis et al. 2019, BART: Poisson with mean 3).
_MEAN_SPAN = 3.0


@dataclass(frozen=True, slots=True)
class Augmenter:
    """The noises of a recipe, in their order.

    Attributes:
        options: the shares.
        mask: id that masking and infilling put in place of tokens.
        unknown: id that word dropout puts in place of words.
    """

    options: AugmentationOptions
    mask: int
    unknown: int

    @classmethod
    def from_options(cls, options: AugmentationOptions, special: SpecialTokens) -> Augmenter | None:
        """Return the augmenter of a recipe, None if every noise is off.

        A vocabulary without a mask token masks with its unknown token, and one without
        an unknown token drops words to its mask token.

        Raises:
            RecipeError: a noise is on whose token the vocabulary does not have.
        """
        shares = {
            "token_masking": options.token_masking,
            "span_infilling": options.span_infilling,
            "word_dropout": options.word_dropout,
        }
        if not any((*shares.values(), options.token_deletion, options.sentence_shuffling)):
            return None
        mask = special.unknown if special.mask is None else special.mask
        unknown = special.mask if special.unknown is None else special.unknown
        replacing = [name for name, share in shares.items() if share]
        if replacing and (mask is None or unknown is None):
            raise RecipeError(
                f"augmentation.{replacing[0]} puts a mask or unknown token in place of others, "
                "and this tokenizer has neither; set it to 0 or use another tokenizer.kind"
            )
        return cls(options, -1 if mask is None else mask, -1 if unknown is None else unknown)

    def apply(self, pieces: Pieces, rng: np.random.Generator) -> Pieces:
        """Return a noisy copy of the pieces of a text."""
        options = self.options
        if options.sentence_shuffling and rng.random() < options.sentence_shuffling:
            pieces = shuffle_sentences(pieces, rng)
        if options.word_dropout:
            pieces = drop_words(pieces, options.word_dropout, self.unknown, rng)
        if options.token_deletion:
            pieces = delete_tokens(pieces, options.token_deletion, rng)
        if options.span_infilling:
            pieces = infill(pieces, options.span_infilling, self.mask, rng)
        if options.token_masking:
            pieces = hide_tokens(pieces, options.token_masking, self.mask, rng)
        return pieces

    def apply_in_place(
        self,
        ids: Ids,
        *,
        begins_word: NDArray[np.bool_],
        keep: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> Ids:
        """Return a noisy copy of running text, each token where it was.

        Args:
            ids: i64[T].
            begins_word: bool[T], tokens that begin a word; all pieces of a dropped word
                are replaced.
            keep: bool[T], tokens that no noise touches: special ones, whitespace.
            rng: where chance comes from.
        """
        options = self.options
        noisy = ids
        if options.word_dropout:
            dropped = _choose_words(begins_word, options.word_dropout, rng)
            noisy = np.where(dropped & ~keep, np.int64(self.unknown), noisy)
        if options.token_masking:
            hidden = rng.random(ids.size) < options.token_masking
            noisy = np.where(hidden & ~keep, np.int64(self.mask), noisy)
        return noisy


def check_for_running_text(options: AugmentationOptions) -> None:
    """Refuse the noises that move tokens, which text with shifted targets cannot have.

    Raises:
        RecipeError: naming the value.
    """
    for name in ("token_deletion", "span_infilling", "sentence_shuffling"):
        if getattr(options, name):
            raise RecipeError(
                f"augmentation.{name} moves tokens, so the targets of objective.kind "
                "'next-token' would no longer fit; it is for labelled tasks: set it to 0 "
                "(token_masking and word_dropout work here)"
            )


def shuffle_sentences(pieces: Pieces, rng: np.random.Generator) -> Pieces:
    """Put the sentences of a text in a random order; each stays whole."""
    begins = np.flatnonzero(pieces.flags & BEGINS_SENTENCE)
    if begins.size < 2:
        return pieces
    sentences = np.split(np.arange(len(pieces)), begins[begins > 0])
    order = rng.permutation(len(sentences))
    return pieces.take(np.concatenate([sentences[number] for number in order]))


def drop_words(pieces: Pieces, share: float, unknown: int, rng: np.random.Generator) -> Pieces:
    """Replace each word, with chance `share`, by one unknown token that keeps its tag."""
    begins = (pieces.flags & BEGINS_WORD).astype(bool)
    dropped = _choose_words(begins, share, rng)
    return pieces.overwrite(dropped, unknown).take(~dropped | begins)


def _choose_words(
    begins: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return bool[N]: the tokens of the chosen words, each word chosen with chance `share`.

    Tokens before the first beginning of a word belong to no word and stay.
    """
    word = np.cumsum(begins)
    chosen = rng.random(int(begins.sum()) + 1) < share
    chosen[0] = False
    return np.asarray(chosen[word], dtype=bool)


def delete_tokens(pieces: Pieces, share: float, rng: np.random.Generator) -> Pieces:
    """Delete each token with chance `share`; if chance deletes all, one stays."""
    kept = rng.random(len(pieces)) >= share
    if not kept.any() and len(pieces):
        kept[rng.integers(len(pieces))] = True
    return pieces.take(kept)


def infill(pieces: Pieces, share: float, mask: int, rng: np.random.Generator) -> Pieces:
    """Replace spans that hold `share` of the tokens by one mask token each.

    The number of tokens is rounded by chance, so that short texts get their share too.
    """
    length = len(pieces)
    noise = min(int(length * share + rng.random()), length - 1)
    if noise < 1:
        return pieces
    spans = min(max(round(noise / _MEAN_SPAN), 1), length - noise + 1)
    starts, lengths = random_spans(length, noise, spans, rng)
    kept = np.ones(length, dtype=bool)
    first = np.zeros(length, dtype=bool)
    first[starts] = True
    for start, size in zip(starts, lengths, strict=True):
        kept[start + 1 : start + size] = False
    return pieces.overwrite(first, mask, keep_tags=False).take(kept)


def hide_tokens(pieces: Pieces, share: float, mask: int, rng: np.random.Generator) -> Pieces:
    """Replace each token, with chance `share`, by the mask token; tags stay."""
    return pieces.overwrite(rng.random(len(pieces)) < share, mask)
