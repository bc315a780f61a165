"""WordPiece vocabularies that come out the same every time.

The trainer of the `tokenizers` library numbers the continuing characters (`##a`) in the
order of a randomly seeded hash table and breaks ties between pairs by those numbers, so
that two runs over one text give two vocabularies. Here the alphabet is gathered first and
handed to the trainer in order, which leaves it nothing to choose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

_CONTINUES = "##"
# Characters beyond the most frequent ones make a word unknown, as in BERT.
MAX_ALPHABET = 1000


def train_wordpiece(
    texts: Iterable[str],
    *,
    vocabulary_size: int,
    minimum_count: int,
    lowercase: bool,
    special: list[str],
    unknown: str,
) -> tokenizers.Tokenizer:
    """Train a WordPiece tokenizer.

    Args:
        texts: what to train on; gone over twice.
        vocabulary_size: entries to reach; fewer where the texts have fewer, more where
            the alphabet alone has more.
        minimum_count: rarer pieces are not made.
        lowercase: fold case and drop accents first.
        special: the special tokens in order of id.
        unknown: the one for words that cannot be spelled.
    """
    raw = _untrained(models.WordPiece(unk_token=unknown), lowercase)
    begins, continues = _alphabet(raw, texts)
    fixed = [*special, *(_CONTINUES + character for character in continues)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=minimum_count,
        # Not special in the end: the only entries whose order the trainer keeps.
        special_tokens=fixed,
        initial_alphabet=begins,
        limit_alphabet=len(begins),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    trained = _untrained(models.WordPiece(raw.get_vocab(), unk_token=unknown), lowercase)
    trained.add_special_tokens(special)
    return trained


def _untrained(model: models.WordPiece, lowercase: bool) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(model)
    raw.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(prefix=_CONTINUES)
    return raw


def _alphabet(raw: tokenizers.Tokenizer, texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the characters to keep, and those of them that continue a word; sorted."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        for word, _ in raw.pre_tokenizer.pre_tokenize_str(raw.normalizer.normalize_str(text)):
            counts.update(word)
            inside.update(word[1:])
    # By count, ties by code point: Counter.most_common would keep the order of arrival.
    by_count = sorted(counts, key=lambda character: (-counts[character], character))
    kept = sorted(by_count[:MAX_ALPHABET])
    return kept, [character for character in kept if character in inside]
