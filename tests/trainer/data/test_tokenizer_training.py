"""Vocabularies: the same every time, of the size that was asked, refused with figures."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.trainer.data.texts import prose
from trainer.data.special import SpecialTokens, special_names
from trainer.data.tokenizer_training import train_tokenizer
from trainer.errors import DataError, RecipeError
from trainer.recipe.schema import FAMILIES, TokenizerOptions

TEXT = prose(3000)
LETTERS = "abcdefghijklmnop"


def options(kind: str, size: int = 100, **more: object) -> TokenizerOptions:
    return TokenizerOptions(kind=kind, vocabulary_size=size, **more)  # type: ignore[arg-type]


# Prints the digests of tokenizers that are trained on the text given on stdin.
CHILD = """
import sys
from trainer.data.tokenizer_training import train_tokenizer
from trainer.recipe.schema import TokenizerOptions
text = sys.stdin.read()
for kind, size in (("bpe", 400), ("wordpiece", 110), ("word", 30), ("character", 16)):
    options = TokenizerOptions(kind=kind, vocabulary_size=size)
    print(train_tokenizer(options, [text], "encoder").tokenizer.digest)
"""


def test_the_same_text_gives_the_same_tokenizers_in_every_process() -> None:
    """Hash tables are seeded anew in every process, and order must not come from them."""
    printed = {
        subprocess.run(
            [sys.executable, "-c", CHILD], input=TEXT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    }

    assert len(printed) == 1
    assert len(set(printed.pop().split())) == 4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "word", "character"])
def test_special_tokens_come_first(family: str, kind: str) -> None:
    size = {"bpe": 420, "wordpiece": 200, "word": 120}.get(kind, 16)
    text = TEXT + " ".join(f"rareword{number}" * 2 for number in range(100))
    made = train_tokenizer(options(kind, size, minimum_count=1), [text], family).tokenizer

    names = special_names(family, kind).ordered
    assert [made.token(number) for number in range(len(names))] == names
    assert {made.raw.token_to_id(name) for name in names} == made.special.all()


@pytest.mark.parametrize(
    ("family", "special"),
    [
        ("decoder", SpecialTokens(begin=0, end=0)),
        ("encoder", SpecialTokens(pad=0, unknown=1, begin=2, end=3, mask=4, separator=3)),
        ("seq2seq", SpecialTokens(pad=0, end=1, unknown=2, sentinels=tuple(range(3, 103)))),
    ],
)
def test_special_tokens_of_each_family(family: str, special: SpecialTokens) -> None:
    assert train_tokenizer(options("bpe", 400), [TEXT], family).tokenizer.special == special


def test_words_are_numbered_by_falling_frequency() -> None:
    text = " ".join(
        letter * 3 + " " + (letter + " ") * count for count, letter in enumerate(LETTERS)
    )
    made = train_tokenizer(options("word", 16, minimum_count=2), [text], "recurrent").tokenizer

    # "a" comes not at all and "b" once: below the minimum count.
    assert [made.token(number) for number in range(2, 16)] == list(LETTERS[:1:-1])


def test_words_outside_of_the_vocabulary_are_unknown_and_a_spelled_token_is_no_word() -> None:
    made = train_tokenizer(options("word", 30), [TEXT], "recurrent").tokenizer

    assert made.encode("nonsense").tolist() == [made.special.unknown]
    # "<", "unk" and ">" are what it is spelled with.
    assert made.encode("<unk>").tolist() == [made.special.unknown] * 3


def test_characters_are_those_of_the_text() -> None:
    made = train_tokenizer(options("character"), ["b\na", "aé"], "decoder").tokenizer

    tokens = [made.token(number) for number in range(made.vocabulary_size)]
    assert tokens == ["<|endoftext|>", "<unk>", "\n", "a", "b", "é"]


def test_case_is_folded_where_asked() -> None:
    for kind, size in (("word", 30), ("wordpiece", 80)):
        folded = train_tokenizer(options(kind, size, lowercase=True), [TEXT], "encoder")
        ids = folded.tokenizer.encode("ANCHOR anchor").tolist()
        assert ids[: len(ids) // 2] == ids[len(ids) // 2 :]


@pytest.mark.parametrize("kind", ["bpe", "character"])
def test_case_cannot_be_folded_where_texts_stay_as_they_are(kind: str) -> None:
    with pytest.raises(RecipeError, match="lowercase does not go with"):
        train_tokenizer(options(kind, 400, lowercase=True), [TEXT], "decoder")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "word", "character"])
@pytest.mark.parametrize("documents", [[], ["", ""]])
def test_empty_corpus(kind: str, documents: list[str]) -> None:
    with pytest.raises(DataError, match="the corpus is empty"):
        train_tokenizer(options(kind, 400), documents, "encoder")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "word"])
def test_vocabulary_larger_than_the_data_supports(kind: str) -> None:
    with pytest.raises(DataError, match=r"is 50000, but this corpus supports only \d+ entries"):
        train_tokenizer(options(kind, 50_000), [TEXT], "encoder")


def test_for_word_embeddings_the_size_is_only_a_limit() -> None:
    made = train_tokenizer(options("word", 50_000), [TEXT], "word-embeddings")

    assert made.tokenizer.vocabulary_size == made.report.reached < 100
    assert made.report.warnings[0].startswith("50000 entries were asked for")


def test_the_size_that_the_error_names_works() -> None:
    with pytest.raises(DataError) as caught:
        train_tokenizer(options("word", 50_000), [TEXT], "recurrent")
    supported = int(re.findall(r"\d+", str(caught.value))[1])

    made = train_tokenizer(options("word", supported), [TEXT], "recurrent")
    assert made.tokenizer.vocabulary_size == supported
    assert made.report.warnings == ()


def test_a_vocabulary_that_is_nearly_reached_is_kept_with_a_warning() -> None:
    made = train_tokenizer(options("word", 60), [TEXT], "recurrent")

    assert made.report.wanted == 60
    assert 36 <= made.report.reached < 60
    assert f"60 entries were asked for; the data supports {made.report.reached}" in (
        made.report.warnings
    )


@pytest.mark.parametrize(("kind", "least"), [("bpe", 261), ("wordpiece", 30)])
def test_vocabulary_smaller_than_the_alphabet(kind: str, least: int) -> None:
    with pytest.raises(RecipeError, match=r"tokenizer\.vocabulary_size is 20") as caught:
        train_tokenizer(options(kind, 20), [TEXT], "encoder")
    assert max(int(figure) for figure in re.findall(r"\d+", str(caught.value))) >= least


def test_a_tokenizer_that_is_read_is_not_trained() -> None:
    with pytest.raises(RecipeError, match="'file'"):
        train_tokenizer(options("file"), [TEXT], "decoder")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "word", "character"])
def test_an_error_of_the_corpus_comes_through(kind: str) -> None:
    def documents() -> Iterator[str]:
        yield TEXT
        raise DataError("corpus.txt:7: a NUL byte")

    with pytest.raises(DataError, match=r"corpus\.txt:7"):
        train_tokenizer(options(kind, 300), documents(), "encoder")


def test_an_iterator_serves_for_wordpiece_too() -> None:
    given = train_tokenizer(options("wordpiece", 110), iter([TEXT]), "encoder").tokenizer

    assert (
        given.digest
        == train_tokenizer(options("wordpiece", 110), [TEXT], "encoder").tokenizer.digest
    )
