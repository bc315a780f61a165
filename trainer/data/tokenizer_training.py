"""Tokenizers trained here: byte-level BPE, WordPiece, characters, whole words.

Each is made with the `tokenizers` library alone and is a plain tokenizer.json. Byte-level
BPE spells any text and decodes to it exactly; characters do for the characters found in
training; WordPiece and words normalize white space, and have an unknown token.

It refuses a corpus without text, a vocabulary that is larger than the data supports
(less than 60% of it could be filled; for word embeddings the size is only a limit) and one
that is smaller than its alphabet; both errors give the figures.
Invariant: the same documents and options give the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from trainer.data.characters import ANY_CHARACTER
from trainer.data.special import SpecialNames, special_names
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_files import new_settings
from trainer.data.vocabulary_report import VocabularyReport, measure_vocabulary
from trainer.data.wordpiece import train_wordpiece
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import TokenizerOptions

# Below this share of what was asked the vocabulary is refused; see the module.
SMALLEST_SHARE = 0.6
# Characters of the training text that the report is measured on.
SAMPLE_CHARACTERS = 1_000_000
_BYTES = 256


@dataclass(frozen=True, slots=True)
class TrainedTokenizer:
    """A new tokenizer and how well it fits the text it was trained on."""

    tokenizer: Tokenizer
    report: VocabularyReport


class _Sampled:
    """Passes texts on, counts them, and keeps the first for the report."""

    def __init__(self, documents: Iterable[str]) -> None:
        self._documents = documents
        self.sample: list[str] = []
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        self.sample, self.characters = [], 0
        for text in self._documents:
            if self.characters < SAMPLE_CHARACTERS:
                self.sample.append(text)
            self.characters += len(text)
            yield text


def train_tokenizer(
    options: TokenizerOptions, documents: Iterable[str], family: str
) -> TrainedTokenizer:
    """Train a tokenizer.

    Args:
        options: kind and size.
        documents: the texts. WordPiece goes over them twice, so an iterator is put
            into memory first; give what can be iterated again.
        family: of the network that will use it; decides the special tokens.

    Raises:
        DataError: no text, or the vocabulary is larger than the data supports.
        RecipeError: the options do not fit one another.
    """
    if options.kind not in _KINDS:
        raise RecipeError(f"a tokenizer of the kind {options.kind!r} is not trained but read")
    if options.lowercase and options.kind in ("bpe", "character"):
        raise RecipeError(
            f"tokenizer.lowercase does not go with the kind {options.kind!r}, which keeps "
            "every text as it is; use 'wordpiece' or 'word', or leave it out"
        )
    names = special_names(family, options.kind)
    if options.kind == "wordpiece" and isinstance(documents, Iterator):
        documents = list(documents)
    texts = _Sampled(documents)
    raw = _KINDS[options.kind](options, names, texts)
    if texts.characters == 0:
        raise DataError("there is no text to train a tokenizer on: the corpus is empty")
    _frame(raw, names)
    tokenizer = Tokenizer(raw, new_settings(names.names, names.additional))
    wanted = tokenizer.vocabulary_size
    if options.kind != "character":
        wanted = options.vocabulary_size
        _check_size(options, tokenizer.vocabulary_size, family)
    return TrainedTokenizer(
        tokenizer, measure_vocabulary(tokenizer, texts.sample, wanted=wanted, measured_on="train")
    )


def _byte_level_bpe(
    options: TokenizerOptions, names: SpecialNames, texts: Iterable[str]
) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    smallest = _BYTES + len(names.ordered)
    if options.vocabulary_size < smallest:
        raise RecipeError(
            f"tokenizer.vocabulary_size is {options.vocabulary_size}; byte-level BPE has at "
            f"least {smallest}: {_BYTES} bytes and {len(names.ordered)} special tokens"
        )
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary_size,
        min_frequency=options.minimum_count,
        special_tokens=names.ordered,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def _wordpiece(
    options: TokenizerOptions, names: SpecialNames, texts: Iterable[str]
) -> tokenizers.Tokenizer:
    return train_wordpiece(
        texts,
        vocabulary_size=options.vocabulary_size,
        minimum_count=options.minimum_count,
        lowercase=options.lowercase,
        special=names.ordered,
        unknown=names.names["unk_token"],
    )


def _words(
    options: TokenizerOptions, names: SpecialNames, texts: Iterable[str]
) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.WordLevel({}, unk_token=names.names["unk_token"]))
    if options.lowercase:
        raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    # Ids fall with frequency, which the adaptive softmax builds on.
    trainer = trainers.WordLevelTrainer(
        vocab_size=options.vocabulary_size,
        min_frequency=options.minimum_count,
        special_tokens=names.ordered,
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def _characters(
    options: TokenizerOptions, names: SpecialNames, texts: Iterable[str]
) -> tokenizers.Tokenizer:
    found: set[str] = set()
    for text in texts:
        found.update(text)
    ids: dict[str, int] = {}
    for token in (*names.ordered, *sorted(found)):
        ids[token] = len(ids)
    raw = tokenizers.Tokenizer(models.WordLevel(ids, unk_token=names.names["unk_token"]))
    raw.add_special_tokens(names.ordered)
    raw.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(ANY_CHARACTER), "isolated")
    raw.decoder = decoders.Fuse()
    return raw


_KINDS: dict[
    str, Callable[[TokenizerOptions, SpecialNames, Iterable[str]], tokenizers.Tokenizer]
] = {
    "bpe": _byte_level_bpe,
    "wordpiece": _wordpiece,
    "word": _words,
    "character": _characters,
}


def _frame(raw: tokenizers.Tokenizer, names: SpecialNames) -> None:
    """Set what the family puts around a text, and around a pair of texts."""
    begin, end = names.names.get("cls_token"), names.names.get("sep_token")
    if begin is None and names.additional:
        end = names.names["eos_token"]
    if end is None:
        return
    front = f"{begin} " if begin else ""
    tokens = [token for token in (begin, end) if token is not None]
    raw.post_processor = processors.TemplateProcessing(
        single=f"{front}$A {end}",
        pair=f"{front}$A {end} $B:1 {end}:1",
        special_tokens=[(token, raw.token_to_id(token)) for token in tokens],
    )


def _check_size(options: TokenizerOptions, reached: int, family: str) -> None:
    wanted = options.vocabulary_size
    if reached > wanted:
        raise RecipeError(
            f"tokenizer.vocabulary_size is {wanted}, smaller than the alphabet of this corpus "
            f"with the special tokens ({reached}); set it to {reached} or more"
        )
    # Word embeddings take every word that is frequent enough; the size is only a limit.
    if family != "word-embeddings" and reached < SMALLEST_SHARE * wanted:
        raise DataError(
            f"tokenizer.vocabulary_size is {wanted}, but this corpus supports only {reached} "
            f"entries that occur {options.minimum_count} times or more; set it to {reached} or "
            "less, or give more text"
        )
