from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.data.tiny import TEXTS
from trainer.data.kept_tokenizer import kept_tokenizer
from trainer.data.tokenizer_training import TrainedTokenizer, train_tokenizer
from trainer.errors import DataError
from trainer.recipe.schema import TokenizerOptions


def trained(size: int) -> TrainedTokenizer:
    options = TokenizerOptions(kind="bpe", vocabulary_size=size, minimum_count=1)
    return train_tokenizer(options, list(TEXTS), "decoder")


def test_it_is_trained_once(tmp_path: Path) -> None:
    first, report = kept_tokenizer(tmp_path / "one", lambda: trained(262))

    def never() -> TrainedTokenizer:
        raise AssertionError("it was there already")

    again, same = kept_tokenizer(tmp_path / "one", never)
    assert again.digest == first.digest == trained(262).tokenizer.digest
    assert same == report
    assert report["reached"] == first.vocabulary_size


def test_of_two_ranks_that_train_the_first_to_finish_is_kept(tmp_path: Path) -> None:
    def while_another_finishes() -> TrainedTokenizer:
        kept_tokenizer(tmp_path / "one", lambda: trained(262))
        return trained(266)

    found, report = kept_tokenizer(tmp_path / "one", while_another_finishes)
    assert found.vocabulary_size == report["reached"] == 262
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_failed_training_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> TrainedTokenizer:
        raise DataError("no text")

    with pytest.raises(DataError, match="no text"):
        kept_tokenizer(tmp_path / "one", fails)
    assert list(tmp_path.iterdir()) == []
