"""From a recipe's files to tokens: exact, kept for the next run, never half there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.data.texts import prose
from trainer.data import prepare
from trainer.data.corpus import write_shards
from trainer.data.prepare import PreparedText, prepare_text
from trainer.data.shards import ShardSet
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.errors import DataError
from trainer.recipe.schema import (
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    Recipe,
    TokenizerOptions,
)


def recipe(
    path: Path, kind: str = "character", size: int = 400, family: str = "decoder", **data: Any
) -> Recipe:
    objective = {"encoder": "masked", "seq2seq": "infilling"}.get(family, "next-token")
    return Recipe(
        model=ModelOptions(family=family),
        objective=ObjectiveOptions(kind=objective),
        tokenizer=TokenizerOptions(kind=kind, vocabulary_size=size),
        data=DataOptions(train=(str(path),), **data),
    )


def run(wanted: Recipe, folder: Path, tokenizer: Tokenizer | None = None) -> PreparedText:
    return prepare_text(wanted, tokenizer, folder, lambda said: None)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(prose(3000))
    return path


def decode(prepared: PreparedText, shards: ShardSet | None) -> str:
    assert shards is not None
    ids = prepared.tokenizer.raw.decode(
        shards.read(0, shards.tokens).tolist(), skip_special_tokens=True
    )
    return str(ids)


@pytest.mark.parametrize("kind", ["character", "bpe"])
def test_no_character_is_lost_or_changed(book: Path, tmp_path: Path, kind: str) -> None:
    prepared = run(recipe(book, kind, shard_tokens=1024), tmp_path / "shards")
    text = book.read_text()
    cut = int(len(text) * 0.9)

    assert decode(prepared, prepared.train) == text[:cut]
    assert decode(prepared, prepared.validation) == text[cut:]
    assert prepared.train.utf8_bytes == cut
    end = prepared.tokenizer.special.end
    assert prepared.train.read(prepared.train.tokens - 1, prepared.train.tokens).tolist() == [end]
    assert prepared.sources == [
        {**prepared.sources[0], "name": "book.txt", "bytes": len(text), "role": "train"}
    ]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "word", "character"])
def test_pieces_of_a_long_file_have_the_tokens_of_the_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "long.txt"
    path.write_text(prose(40_000))
    size = {"word": 30, "wordpiece": 120}.get(kind, 400)
    prepared = run(recipe(path, kind, size, "recurrent", validation_fraction=0.0), tmp_path / "s")

    whole = prepared.tokenizer.encode(path.read_text())
    assert prepared.train.read(0, prepared.train.tokens - 1).tolist() == whole.tolist()
    assert prepared.train.documents == 1


def test_documents_are_framed_as_the_tokenizer_says(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    lines = prose(300).splitlines()
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    prepared = run(
        recipe(path, "bpe", 300, "encoder", validation_fraction=0.0), tmp_path / "shards"
    )

    shards, special = prepared.train, prepared.tokenizer.special
    begins = shards.begins(0, shards.tokens).tolist()
    assert len(begins) == shards.documents == len(lines)
    for line, begin, end in zip(lines, begins, [*begins[1:], shards.tokens], strict=True):
        expected = [special.begin, *prepared.tokenizer.encode(line).tolist(), special.end]
        assert shards.read(begin, end).tolist() == expected
    assert shards.utf8_bytes == sum(len(line) for line in lines)


def test_nothing_is_held_out_where_the_share_is_zero(book: Path, tmp_path: Path) -> None:
    prepared = run(recipe(book, validation_fraction=0.0), tmp_path / "shards")

    assert prepared.validation is None
    assert decode(prepared, prepared.train) == book.read_text()


def test_a_validation_corpus_of_its_own(book: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("anchor barley; candle?")
    prepared = run(recipe(book, validation=(str(other),)), tmp_path / "shards")

    assert decode(prepared, prepared.train) == book.read_text()
    # Characters that training never saw are unknown, not learned from validation.
    assert decode(prepared, prepared.validation) == "anchor barley candle"
    assert [(source["name"], source["role"]) for source in prepared.sources] == [
        ("book.txt", "train"),
        ("other.txt", "validation"),
    ]
    assert prepared.report is not None
    assert prepared.report["measured_on"] == "validation"
    assert prepared.report["out_of_vocabulary_rate"] == pytest.approx(2 / 22)


def test_the_next_run_finds_what_is_there(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(recipe(book), tmp_path / "shards")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("built again")

    monkeypatch.setattr(prepare, "_build", refuse)
    second = run(recipe(book), tmp_path / "shards")

    assert second.train.digest == first.train.digest
    assert second.tokenizer.digest == first.tokenizer.digest
    assert second.report == first.report
    with pytest.raises(RuntimeError, match="built again"):
        run(recipe(book, "bpe"), tmp_path / "shards")


def changes(book: Path) -> Iterator[Recipe]:
    yield recipe(book, "bpe")
    yield recipe(book, "bpe", 401)
    yield recipe(book, family="recurrent")
    yield recipe(book, validation_fraction=0.2)
    yield recipe(book, validation=(str(book),))
    yield recipe(book, format="lines")
    yield recipe(book, shard_tokens=4096)


def test_whatever_decides_the_tokens_makes_another_folder(book: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    run(recipe(book), folder)
    for number, wanted in enumerate(changes(book), start=2):
        run(wanted, folder)
        assert len(list(folder.iterdir())) == number
    book.write_text(book.read_text() + "x")
    run(recipe(book), folder)
    assert len(list(folder.iterdir())) == number + 1


def test_the_cache_of_the_recipe_is_used(book: Path, tmp_path: Path) -> None:
    run(recipe(book, cache=str(tmp_path / "cache")), tmp_path / "shards")

    assert (tmp_path / "cache").is_dir()
    assert not (tmp_path / "shards").exists()


def test_a_tokenizer_that_is_given_is_used(book: Path, tmp_path: Path) -> None:
    options = TokenizerOptions(kind="bpe", vocabulary_size=300)
    given = train_tokenizer(options, [prose(500, seed=9)], "decoder").tokenizer
    prepared = run(recipe(book), tmp_path / "shards", given)

    assert prepared.tokenizer.digest == given.digest == prepared.train.tokenizer_digest
    assert prepared.report is None


def test_a_tokenizer_from_a_file(book: Path, tmp_path: Path) -> None:
    options = TokenizerOptions(kind="bpe", vocabulary_size=300)
    made = train_tokenizer(options, [prose(500, seed=9)], "decoder").tokenizer
    made.raw.save(str(tmp_path / "mine.json"))
    wanted = Recipe(
        tokenizer=TokenizerOptions(kind="file", file=str(tmp_path / "mine.json")),
        data=DataOptions(train=(str(book),)),
    )

    assert run(wanted, tmp_path / "shards").tokenizer.digest == made.digest


def test_ranks_that_prepare_at_the_same_time(book: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        every = list(pool.map(lambda _: run(recipe(book), tmp_path / "shards"), range(4)))

    assert len({prepared.train.digest for prepared in every}) == 1
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"Fine words\n" * 9000 + b"\xff")

    with pytest.raises(DataError, match=r"bad\.txt:9001: byte 1"):
        run(recipe(path), tmp_path / "shards")
    assert list((tmp_path / "shards").iterdir()) == []


def test_empty_corpus(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()

    with pytest.raises(DataError, match=r"empty\.txt: the file is empty"):
        run(recipe(path), tmp_path / "shards")


def test_corpus_of_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "mark.txt"
    path.write_bytes(b"\xef\xbb\xbf")
    options = TokenizerOptions(kind="bpe", vocabulary_size=300)
    given = train_tokenizer(options, [prose(500)], "decoder").tokenizer

    with pytest.raises(DataError, match=r"mark\.txt: there is no text in the train corpus"):
        run(recipe(path, validation_fraction=0.0), tmp_path / "shards", given)


def test_corpus_too_small_to_hold_a_part_out(tmp_path: Path) -> None:
    path = tmp_path / "small.jsonl"
    path.write_text('{"text": "the only document"}\n')

    with pytest.raises(
        DataError, match=r"small\.jsonl: holding out 0\.1 .* no text for validation"
    ):
        run(recipe(path), tmp_path / "shards")


def test_corpus_that_changes_while_it_is_read(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_shards

    def write_and_change(*arguments: Any) -> None:
        write(*arguments)
        with book.open("a") as file:
            file.write("more")

    monkeypatch.setattr(prepare, "write_shards", write_and_change)

    with pytest.raises(DataError, match="changed while it was read"):
        run(recipe(book), tmp_path / "shards")
    assert list((tmp_path / "shards").iterdir()) == []


def test_corrupt_shard_of_an_earlier_run(book: Path, tmp_path: Path) -> None:
    prepared = run(recipe(book), tmp_path / "shards")
    path = prepared.train.folder / "shard-00000.tokens"
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"shard-00000\.tokens is corrupt"):
        run(recipe(book), tmp_path / "shards")


def test_another_tokenizer_beside_the_shards(book: Path, tmp_path: Path) -> None:
    prepared = run(recipe(book), tmp_path / "shards")
    options = TokenizerOptions(kind="bpe", vocabulary_size=300)
    other = train_tokenizer(options, [prose(500)], "decoder").tokenizer
    other.save(prepared.train.folder.parent / "tokenizer")

    with pytest.raises(DataError, match="made with another tokenizer"):
        run(recipe(book), tmp_path / "shards")


def test_no_text_in_what_is_said(book: Path, tmp_path: Path) -> None:
    said: list[str] = []
    prepare_text(recipe(book), None, tmp_path / "shards", said.append)

    assert said == [
        "checking the corpus",
        "training the tokenizer",
        "tokenizing the train corpus",
        "tokenizing the validation corpus",
        "checking the shards",
    ]


def test_nanogpt_splits_shakespeare_the_same(shared: Path, tmp_path: Path) -> None:
    prepared = run(recipe(shared / "data" / "shakespeare" / "input.txt"), tmp_path / "shards")

    assert prepared.validation is not None
    end = 1
    assert prepared.train.tokens - end == prepared.train.utf8_bytes == 1_003_854
    assert prepared.validation.tokens - end == prepared.validation.utf8_bytes == 111_540
    assert prepared.tokenizer.vocabulary_size - len(prepared.tokenizer.special.all()) == 65
