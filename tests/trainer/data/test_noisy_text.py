from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tests.trainer.data.tiny import TEXTS, tokenizer
from trainer.data.augmentation import Augmenter
from trainer.data.batch import IGNORED, Batch, DataSet, Item
from trainer.data.noisy_text import InfilledText, MaskedText, NoisyText
from trainer.data.special import SpecialTokens
from trainer.data.text_dataset import collate_windows
from trainer.data.word_marks import WordMarks
from trainer.errors import RecipeError
from trainer.recipe.schema import AugmentationOptions


class Rows:
    """Windows held in memory, the same in every epoch; a real data set without files."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    @property
    def fingerprint(self) -> str:
        return str(hash(self._rows.tobytes()))

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, epoch: int, index: int) -> Item:
        del epoch
        row = self._rows[index]
        documents = np.repeat([0, 1], [row.size // 2, row.size - 1 - row.size // 2])
        return {"input_ids": row[:-1], "labels": row[1:], "document_ids": documents}

    def where(self, epoch: int, index: int) -> str:
        return f"row {index} of epoch {epoch}"

    def collate(self, items: Sequence[Item]) -> Batch:
        return collate_windows(items)


ENCODER = tokenizer()
WINDOWS = Rows(np.random.default_rng(0).integers(5, 40, size=(6, 33)))


def masked(windows: DataSet = WINDOWS, seed: int = 3) -> MaskedText:
    return MaskedText(
        windows,
        special=ENCODER.special,
        vocabulary_size=ENCODER.vocabulary_size,
        probability=0.15,
        seed=seed,
    )


def test_masked_windows_keep_their_documents_and_original_tokens() -> None:
    data = masked()
    for index in range(len(data)):
        item = data.item(2, index)
        original = WINDOWS.item(2, index)
        chosen = item["labels"] != IGNORED
        assert chosen.any()
        # The target is the token of this very position, not of the next.
        assert np.array_equal(item["labels"][chosen], original["input_ids"][chosen])
        assert np.array_equal(item["input_ids"][~chosen], original["input_ids"][~chosen])
        assert np.array_equal(item["document_ids"], original["document_ids"])
    batch = data.collate([data.item(0, 0), data.item(0, 1)])
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 32)
    assert batch["document_ids"].shape == batch["position_ids"].shape == (2, 32)


def test_masks_are_a_function_of_seed_epoch_and_index() -> None:
    first, again, other = masked(), masked(), masked(seed=4)

    def labels(data: MaskedText, epoch: int, index: int) -> list[int]:
        return list(data.item(epoch, index)["labels"])

    assert labels(first, 0, 1) == labels(again, 0, 1)
    assert len({tuple(labels(first, epoch, 1)) for epoch in range(8)}) == 8
    assert labels(first, 0, 1) != labels(other, 0, 1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.where(4, 2) == "row 2 of epoch 4"


def test_masking_needs_a_mask_token() -> None:
    with pytest.raises(RecipeError, match="needs a mask token"):
        MaskedText(
            WINDOWS, special=SpecialTokens(unknown=1), vocabulary_size=9, probability=0.1, seed=0
        )


def infilled(special: SpecialTokens) -> InfilledText:
    return InfilledText(WINDOWS, special=special, probability=0.15, mean_span=3.0, seed=3)


def test_infilled_batches_need_no_padding_and_begin_with_the_padding_token() -> None:
    special = SpecialTokens(pad=0, end=1, sentinels=tuple(range(100, 110)))
    data = infilled(special)
    items = [data.item(0, index) for index in range(len(data))]
    batch = data.collate(items)
    # 32 tokens at 15% are 5 to write in 2 spans; an end token on both sides.
    assert batch["input_ids"].shape == (6, 32 - 5 + 2 + 1)
    assert batch["labels"].shape == batch["decoder_input_ids"].shape == (6, 5 + 2 + 1)
    assert batch["attention_mask"].all()
    assert (batch["labels"] != IGNORED).all()
    assert (batch["decoder_input_ids"][:, 0] == 0).all()
    assert torch.equal(batch["decoder_input_ids"][:, 1:], batch["labels"][:, :-1])
    for index, item in enumerate(items):
        together = np.concatenate((item["input_ids"], item["labels"]))
        assert sorted(together[(together >= 5) & (together < 100)].tolist()) == sorted(
            WINDOWS.item(0, index)["input_ids"].tolist()
        )


def test_infilling_needs_sentinels() -> None:
    with pytest.raises(RecipeError, match="needs sentinel tokens"):
        infilled(ENCODER.special)


def test_a_noised_language_model_still_predicts_the_text_itself() -> None:
    augmenter = Augmenter.from_options(
        AugmentationOptions(token_masking=0.3, word_dropout=0.2), ENCODER.special
    )
    assert augmenter is not None
    data = NoisyText(WINDOWS, augmenter=augmenter, words=WordMarks(ENCODER), seed=1)
    changed = 0
    for index in range(len(data)):
        item, original = data.item(1, index), WINDOWS.item(1, index)
        assert np.array_equal(item["labels"], original["labels"])
        differs = item["input_ids"] != original["input_ids"]
        changed += int(differs.sum())
        noise = {ENCODER.special.mask, ENCODER.special.unknown}
        assert set(item["input_ids"][differs].tolist()) <= noise
        assert np.array_equal(data.item(1, index)["input_ids"], item["input_ids"])
    assert 0.25 < changed / (6 * 32) < 0.7
    assert data.collate([data.item(0, 0)])["input_ids"].shape == (1, 32)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "character", "word"])
def test_words_are_found_from_tokens_alone(kind: str) -> None:
    tokens = tokenizer(kind, "decoder" if kind == "bpe" else "encoder")
    marks = WordMarks(tokens)
    text = "unbelievably good film\na warm fox"
    ids = tokens.encode(text)
    begins = marks.begins(ids)
    assert begins.sum() == 6
    found = [tokens.decode(ids[at : at + 1]).strip()[:1] for at in np.flatnonzero(begins)]
    assert found == [word[0] for word in text.split()]
    assert not (begins & marks.keeps(ids)).any()


def test_special_tokens_are_kept_and_words_begin_after_them() -> None:
    tokens = tokenizer("bpe", "decoder")
    marks = WordMarks(tokens)
    end = tokens.special.end
    assert end is not None
    ids = np.concatenate((tokens.encode(TEXTS[2]), [end], tokens.encode("dull")))
    at = int(np.flatnonzero(ids == end)[0])
    assert marks.keeps(ids)[at]
    assert marks.begins(ids)[at + 1]
