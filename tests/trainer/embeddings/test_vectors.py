from __future__ import annotations

import json

import gensim.models
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

from trainer.data.tokenization import Tokenizer
from trainer.embeddings.vectors import (
    WordVectors,
    is_word_embeddings,
    nearest,
    write_word2vec_text,
)
from trainer.errors import CheckpointError, DataError

WORDS = ("north", "south", "east", "west")
# The vectors of north and south are near, east is at a right angle, west opposite.
ROWS = {"north": (1, 0), "south": (2, 0.2), "east": (0, 3), "west": (-1, 0)}


@pytest.fixture
def folder(tmp_path):
    ids = {word: row for row, word in enumerate(("<|endoftext|>", "<unk>", *WORDS))}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    raw.add_special_tokens(["<|endoftext|>", "<unk>"])
    raw.normalizer = tokenizers.normalizers.Lowercase()
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(raw, {"unk_token": "<unk>", "eos_token": "<|endoftext|>"})
    tokenizer.save(tmp_path)
    inputs = np.zeros((tokenizer.vocabulary_size, 2), dtype=np.float32)
    for word, row in ROWS.items():
        inputs[tokenizer.raw.token_to_id(word)] = row
    counts = np.arange(len(inputs))
    WordVectors(inputs, inputs * np.float32(-2), counts, {"window": 5}).save(tmp_path)
    return tmp_path


def test_a_checkpoint_comes_back_as_it_was_written(folder):
    vectors = WordVectors.load(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "casemate-word-embeddings"
    assert vectors.inputs.shape == (config["vocabulary_size"], config["width"])
    assert (vectors.outputs == vectors.inputs * -2).all()
    assert vectors.counts.tolist() == [0, 1, 2, 3, 4, 5]
    assert dict(vectors.settings) == {"window": 5}


def test_the_nearest_words_come_first_with_their_cosine(folder):
    found = nearest(folder, "north", 3)
    assert [each.word for each in found] == ["south", "east", "west"]
    expected = [2 / np.hypot(2, 0.2), 0, -1]
    assert [each.similarity for each in found] == pytest.approx(expected, abs=1e-6)


def test_no_more_words_than_there_are_and_no_special_one(folder):
    assert {each.word for each in nearest(folder, "north", 100)} == {"south", "east", "west"}


def test_a_word_is_folded_as_the_text_was(folder):
    assert nearest(folder, " North ", 1)[0].word == "south"


@pytest.mark.parametrize("word", ["nort", "north south", "", "<unk>", "<|endoftext|>"])
def test_what_is_no_word_of_the_vocabulary_is_refused(folder, word):
    with pytest.raises(DataError, match="not one of the 4 words"):
        nearest(folder, word)


def test_a_word_that_is_not_there_is_answered_with_similar_ones(folder):
    with pytest.raises(DataError, match="similar ones are 'north'"):
        nearest(folder, "nort")


def test_gensim_reads_the_text_format_and_finds_the_same_neighbours(folder, tmp_path):
    target = tmp_path / "vectors.txt"
    assert write_word2vec_text(folder, target) == 4
    read = gensim.models.KeyedVectors.load_word2vec_format(str(target))
    # The most frequent word first.
    assert read.index_to_key == list(WORDS)
    assert [word for word, _ in read.most_similar("north")] == ["south", "east", "west"]
    assert (read["south"] == np.array(ROWS["south"], dtype=np.float32)).all()


def rewrite_config(**changes):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def write_half_floats(folder):
    vectors = WordVectors.load(folder)
    tensors = {
        "input_embeddings": vectors.inputs.astype(np.float16),
        "output_embeddings": vectors.outputs.astype(np.float16),
        "counts": vectors.counts,
    }
    save_file(tensors, folder / "model.safetensors")


DAMAGES = {
    "config missing": lambda folder: (folder / "config.json").unlink(),
    "config no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config a list": lambda folder: (folder / "config.json").write_text("[]"),
    "another family": rewrite_config(model_type="llama"),
    "another width": rewrite_config(width=3),
    "another vocabulary": rewrite_config(vocabulary_size=5),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "weights no safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
    "one matrix missing": lambda folder: save_file(
        {"input_embeddings": WordVectors.load(folder).inputs}, folder / "model.safetensors"
    ),
    "half floats": write_half_floats,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused(folder, name):
    DAMAGES[name](folder)
    with pytest.raises(CheckpointError):
        WordVectors.load(folder)


def test_a_tokenizer_of_another_run_is_refused(folder):
    vectors = WordVectors.load(folder)
    short = WordVectors(vectors.inputs[:-1], vectors.outputs[:-1], vectors.counts[:-1], {})
    short.save(folder)
    with pytest.raises(CheckpointError, match="not of one run"):
        nearest(folder, "north")


def test_the_kind_of_a_directory_is_told_from_its_config(folder, tmp_path):
    assert is_word_embeddings(folder)
    assert not is_word_embeddings(tmp_path / "nothing")
    rewrite_config(model_type="bert")(folder)
    assert not is_word_embeddings(folder)
