from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models

from tests.trainer.data.tiny import tokenizer
from trainer.data.batch import IGNORED
from trainer.data.pieces import (
    BEGINS_SENTENCE,
    BEGINS_WORD,
    Frame,
    PairFrame,
    Pieces,
    cut,
    cut_tagged,
)

KINDS = ("bpe", "wordpiece", "character", "word")
words = st.lists(
    st.text(st.sampled_from("abdefghijklmnop.,!'"), min_size=1, max_size=6), min_size=1, max_size=9
)


def begun(pieces: Pieces, flag: int) -> list[int]:
    return np.flatnonzero(pieces.flags & flag).tolist()


@pytest.mark.parametrize("kind", KINDS)
@given(row=words)
def test_tags_stand_at_the_first_piece_of_their_words(kind: str, row: list[str]) -> None:
    raw = tokenizer(kind).raw
    (pieces,) = cut_tagged(raw, [row], [list(range(len(row)))])
    assert pieces.tags is not None
    first = pieces.tags != IGNORED
    assert pieces.tags[first].tolist() == list(range(len(row)))
    assert begun(pieces, BEGINS_WORD) == np.flatnonzero(first).tolist()
    encoding = raw.encode(" ".join(row), add_special_tokens=False)
    begins = np.cumsum([0, *(len(word) + 1 for word in row[:-1])])
    for place, tag in zip(np.flatnonzero(first), pieces.tags[first], strict=True):
        start, end = encoding.offsets[place]
        assert start <= begins[tag] < end


@pytest.mark.parametrize("kind", KINDS)
def test_words_and_sentences_are_found_whatever_the_pieces(kind: str) -> None:
    raw = tokenizer(kind).raw
    text = "it moves! does it last? yes  a film"
    (pieces,) = cut(raw, [text])
    assert len(begun(pieces, BEGINS_WORD)) == 8
    assert len(begun(pieces, BEGINS_SENTENCE)) == 3
    offsets = raw.encode(text, add_special_tokens=False).offsets
    begins = [text[slice(*offsets[at])].lstrip()[:1] for at in begun(pieces, BEGINS_WORD)]
    assert begins == [word[0] for word in text.split()]


@given(text=st.text(max_size=60))
def test_every_word_of_any_text_begins_once(text: str) -> None:
    """Bytes can spell everything, so no word may be missed: emoji, accents, any space."""
    text = text.encode("utf-8", "ignore").decode()
    (pieces,) = cut(tokenizer("bpe", "decoder").raw, [text])
    assert len(begun(pieces, BEGINS_WORD)) == len(text.split())
    sentences = begun(pieces, BEGINS_SENTENCE)
    assert sentences[:1] == ([0] if len(pieces) else [])


def test_sentences_of_scripts_without_spaces_are_found() -> None:
    (pieces,) = cut(tokenizer("bpe").raw, ["今日は。明日は。"])
    assert len(begun(pieces, BEGINS_SENTENCE)) == 2


def test_whitespace_alone_belongs_to_no_word() -> None:
    (pieces,) = cut(tokenizer("character").raw, ["a  b"])
    assert begun(pieces, BEGINS_WORD) == [0, 3]


def test_text_without_tokens_is_empty() -> None:
    assert [len(pieces) for pieces in cut(tokenizer().raw, ["", "  "])] == [0, 0]


def test_frames_are_those_of_the_post_processor() -> None:
    encoder = tokenizer()
    special = encoder.special
    assert special.begin is not None
    assert special.separator is not None
    assert Frame.of(encoder.raw) == Frame((special.begin,), (special.separator,))
    assert Frame.of(tokenizer("bpe", "decoder").raw) == Frame((), ())
    pairs = tokenizer("wordpiece", "seq2seq")
    assert pairs.special.end is not None
    assert Frame.of(pairs.raw) == Frame((), (pairs.special.end,))


def test_framed_pieces_are_what_the_tokenizer_itself_encodes() -> None:
    encoder = tokenizer()
    first, second = cut(encoder.raw, ["a warm film", "dull, flat"])
    framed = Frame.of(encoder.raw).around(first.ids)
    assert framed.tolist() == encoder.encode("a warm film", special=True).tolist()
    paired = PairFrame.of(encoder.raw, None).around(first.ids, second.ids)
    assert paired.tolist() == encoder.encode("a warm film", "dull, flat", special=True).tolist()


def test_pairs_without_a_post_processor_are_separated_anyway() -> None:
    decoder = tokenizer("bpe", "decoder")
    end = decoder.special.end
    assert end is not None
    frame = PairFrame.of(decoder.raw, end)
    assert (frame.before, frame.between, frame.after) == ((), (end,), ())


def test_a_vocabulary_that_cannot_spell_the_probe_has_no_frame() -> None:
    raw = RawTokenizer(models.BPE({"b": 0}, []))
    assert raw.encode("a").ids == []
    assert Frame.of(raw) == Frame((), ())
