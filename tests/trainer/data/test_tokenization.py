"""Tokenizers as others see them: transformers reads ours, we read theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.trainer.data.texts import prose
from trainer.data.special import SpecialTokens
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.errors import DataError
from trainer.recipe.schema import TokenizerOptions

TEXT = prose(3000)
SIZES = {"bpe": 400, "wordpiece": 120, "word": 24, "character": 16}
COMBINATIONS = [
    ("bpe", "decoder"),
    ("bpe", "encoder"),
    ("bpe", "seq2seq"),
    ("wordpiece", "encoder"),
    ("wordpiece", "convolution"),
    ("word", "recurrent"),
    ("word", "word-embeddings"),
    ("character", "decoder"),
    ("character", "seq2seq"),
]


def make(kind: str, family: str, text: str = TEXT) -> Tokenizer:
    options = TokenizerOptions(kind=kind, vocabulary_size=SIZES[kind])
    return train_tokenizer(options, [text], family).tokenizer


@pytest.mark.parametrize(("kind", "family"), COMBINATIONS)
def test_transformers_reads_what_we_write(tmp_path: Path, kind: str, family: str) -> None:
    ours = make(kind, family)
    ours.save(tmp_path, context=64)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    line = TEXT.splitlines()[0]

    assert theirs(line)["input_ids"] == ours.encode(line, special=True).tolist()
    assert theirs.decode(ours.encode(line)) == ours.decode(ours.encode(line))
    assert len(theirs) == ours.vocabulary_size
    assert theirs.model_max_length == 64
    assert theirs.pad_token_id == ours.special.pad
    assert theirs.eos_token_id in (ours.special.end, None)
    assert theirs.mask_token_id == ours.special.mask
    assert theirs.unk_token_id == ours.special.unknown


@pytest.mark.parametrize(("kind", "family"), COMBINATIONS)
def test_a_saved_tokenizer_is_the_same_when_loaded(tmp_path: Path, kind: str, family: str) -> None:
    ours = make(kind, family)
    ours.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)

    assert loaded.digest == ours.digest
    assert loaded.special == ours.special
    assert Tokenizer.load(tmp_path / "tokenizer.json").special == ours.special
    loaded.save(tmp_path)
    assert Tokenizer.load(tmp_path).digest == ours.digest


BYTE_LEVEL = make("bpe", "decoder")


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_byte_level_bpe_gives_any_text_back(text: str) -> None:
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode(text)) == text


CHARACTERS = make("character", "decoder", "the quick brown fox\n")


@settings(deadline=None)
@given(st.text(alphabet="the quick brown fox\n", max_size=80))
def test_characters_give_back_texts_of_known_characters(text: str) -> None:
    ids = CHARACTERS.encode(text)

    assert len(ids) == len(text)
    assert CHARACTERS.decode(ids) == text


def test_an_unknown_character_is_the_unknown_token() -> None:
    unknown = CHARACTERS.special.unknown

    assert CHARACTERS.encode("q?é字").tolist()[1:] == [unknown] * 3


@pytest.mark.parametrize(("kind", "family"), COMBINATIONS)
def test_batches_encode_as_single_texts(kind: str, family: str) -> None:
    ours = make(kind, family)
    lines = [*TEXT.splitlines()[:20], ""]

    for special in (False, True):
        batch = ours.encode_batch(lines, special=special)
        assert all(ids.dtype == np.int64 for ids in batch)
        assert [ids.tolist() for ids in batch] == [
            ours.encode(line, special=special).tolist() for line in lines
        ]


def test_pairs_of_an_encoder() -> None:
    ours = make("wordpiece", "encoder")
    special = ours.special
    left, right = ours.encode("Anchor barley").tolist(), ours.encode("Candle").tolist()

    expected = [special.begin, *left, special.end, *right, special.end]
    assert ours.encode("Anchor barley", "Candle", special=True).tolist() == expected
    (pair,) = ours.encode_batch([("Anchor barley", "Candle")], special=True)
    assert pair.tolist() == expected


def test_truncation_and_padding_of_a_file_are_left_behind(tmp_path: Path) -> None:
    ours = make("wordpiece", "encoder")
    raw, pieces = ours.raw, len(ours.encode("anchor"))
    raw.enable_truncation(4)
    raw.enable_padding(length=4)
    path = tmp_path / "tokenizer.json"
    raw.save(str(path))

    loaded = Tokenizer.load(path)

    assert len(loaded.encode("anchor " * 9)) == 9 * pieces
    assert len(loaded.encode("anchor")) == pieces < 4


def test_special_tokens_written_as_objects(tmp_path: Path) -> None:
    ours = make("wordpiece", "encoder")
    ours.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    token = {"content": "[MASK]", "lstrip": True, "normalized": False}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"mask_token": token}))

    assert Tokenizer.load(tmp_path).special == SpecialTokens(mask=ours.special.mask)


def test_settings_of_a_foreign_directory_are_kept_but_for_code(tmp_path: Path) -> None:
    make("wordpiece", "encoder").save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    settings_before = json.loads(config.read_text()) | {
        "tokenizer_class": "BertTokenizerFast",
        "do_lower_case": False,
        "auto_map": {"AutoTokenizer": ["evil.py", None]},
    }
    config.write_text(json.dumps(settings_before))
    target = tmp_path / "out"
    target.mkdir()

    Tokenizer.load(tmp_path).save(target)

    written = json.loads((target / "tokenizer_config.json").read_text())
    assert written.pop("auto_map", None) is None
    assert written == {key: settings_before[key] for key in written}
    assert written["do_lower_case"] is False


def test_a_directory_with_a_word_list_alone(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "anchor", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')

    loaded = Tokenizer.load(tmp_path)

    assert loaded.encode("Anchors", special=True).tolist() == [2, 5, 6, 3]
    assert loaded.special.mask == 4


def test_minilm_is_read(minilm_dir: Path) -> None:
    loaded = Tokenizer.load(minilm_dir)

    assert loaded.vocabulary_size == 30522
    assert loaded.special == SpecialTokens(0, 100, 101, 102, 103, 102)
    assert loaded.encode("hello world", special=True).tolist() == [101, 7592, 2088, 102]


def test_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no tokenizer here"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=r"there is no tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "Magic"}}'])
def test_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)

    with pytest.raises(DataError, match=r"tokenizer\.json: this is no tokenizer"):
        Tokenizer.load(path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_settings_that_are_no_object(tmp_path: Path, content: str) -> None:
    make("bpe", "decoder").save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)

    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_a_row_is_filled_with_pad_or_end_or_zero() -> None:
    assert SpecialTokens(pad=3, end=1).padding == 3
    assert SpecialTokens(end=1).padding == 1
    assert SpecialTokens().padding == 0


def test_the_digest_changes_with_the_vocabulary() -> None:
    one = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    two = tokenizers.Tokenizer(tokenizers.models.WordLevel({"b": 0}, unk_token="b"))

    assert Tokenizer(one, {}).digest != Tokenizer(two, {}).digest


def test_text_cannot_write_control_tokens() -> None:
    for ours in (CHARACTERS, BYTE_LEVEL):
        for spelled in ("<|endoftext|>", "a<|endoftext|>b", "[MASK]"):
            ids = ours.encode(spelled)
            (batched,) = ours.encode_batch([spelled])
            assert batched.tolist() == ids.tolist()
            assert not set(ids.tolist()) & (set(ours.special.all()) - {ours.special.unknown})


@pytest.mark.parametrize(
    "content",
    [
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}',
        '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 4294967295},'
        ' "unk_token": "a"}}',
        "[" * 100_000,
    ],
    ids=["no-token", "an-id-beyond-any-vocabulary", "deep"],
)
def test_tokenizers_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError):
        Tokenizer.load(tmp_path)
