"""The table of characters: the same ids as the library gives, or no table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from tests.trainer.data.texts import prose
from trainer.data.characters import CharacterTable
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.recipe.schema import TokenizerOptions


def make(kind: str, size: int = 16) -> Tokenizer:
    options = TokenizerOptions(kind=kind, vocabulary_size=size)
    return train_tokenizer(options, [prose(500) + "é字𝄞\r\n\u2028"], "decoder").tokenizer


CHARACTERS = make("character")
SPECIAL = st.sampled_from(["<|endoftext|>", "<unk>", "<", "|", "\u2028", "\r\n", "𝄞"])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(max_size=8) | SPECIAL, max_size=6).map("".join))
def test_the_table_gives_what_the_library_gives(text: str) -> None:
    expected = CHARACTERS.raw.encode(text, add_special_tokens=False).ids
    table = CharacterTable.of(CHARACTERS.raw)

    assert table is not None
    assert table.encode(text).tolist() == expected
    assert [ids.tolist() for ids in CHARACTERS.encode_batch([text, ""])] == [expected, []]


def test_special_tokens_in_a_text_are_letters() -> None:
    text = "a<|endoftext|><unk>b<|endoftext|"
    (ids,) = CHARACTERS.encode_batch([text])
    assert len(ids) == len(text)
    assert CHARACTERS.special.end not in ids


def test_pairs_are_left_to_the_library() -> None:
    (ids,) = CHARACTERS.encode_batch([("ab", "c")])

    assert ids.tolist() == CHARACTERS.encode("abc").tolist()


@pytest.mark.parametrize(("kind", "size"), [("word", 30), ("wordpiece", 110), ("bpe", 300)])
def test_other_tokenizers_have_no_table(kind: str, size: int) -> None:
    assert CharacterTable.of(make(kind, size).raw) is None


def test_a_tokenizer_whose_tokens_take_spaces_along_has_no_table() -> None:
    raw = make("character").raw
    raw.add_special_tokens([AddedToken("<mask>", lstrip=True)])

    assert CharacterTable.of(raw) is None


def test_a_tokenizer_that_folds_case_has_no_table() -> None:
    raw = make("character").raw
    raw.normalizer = normalizers.Lowercase()

    assert CharacterTable.of(raw) is None
