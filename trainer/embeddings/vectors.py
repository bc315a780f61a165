"""The checkpoint of word embeddings: two matrices and their words; nearest neighbours.

A checkpoint is a directory with `config.json` (model_type "casemate-word-embeddings"),
`model.safetensors` (`input_embeddings` and `output_embeddings`, f32[V, D], and `counts`,
i64[V]), `tokenizer.json`, whose ids are the rows, and `training.json`. It refuses directories of
another kind and matrices of another shape than config.json says.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trainer.data.tokenization import Tokenizer
from trainer.errors import CheckpointError, DataError

MODEL_TYPE = "casemate-word-embeddings"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_INPUTS = "input_embeddings"
_OUTPUTS = "output_embeddings"
_COUNTS = "counts"
_MAX_CONFIG_BYTES = 1 << 20
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A word near another one.

    Attributes:
        word: the word.
        similarity: cosine of the angle between the two vectors, -1 to 1.
    """

    word: str
    similarity: float


@dataclass(frozen=True)
class WordVectors:
    """What training came to.

    Attributes:
        inputs: f32[V, D] the words' vectors.
        outputs: f32[V, D] the vectors they were held against; for further training and
            for the probability of a context.
        counts: i64[V] occurrences in the training text; what negatives are drawn by.
        settings: what config.json says besides: window, negatives, subsample.
    """

    inputs: Matrix
    outputs: Matrix
    counts: NDArray[np.int64]
    settings: Mapping[str, Any]

    def save(self, folder: Path, state: Mapping[str, Any] | None = None) -> None:
        """Write config.json and model.safetensors.

        Args:
            folder: where; it exists.
            state: not used; part of what every model's `save` takes.

        Raises:
            OSError: a file could not be written.
        """
        del state
        rows, width = self.inputs.shape
        config = {
            "model_type": MODEL_TYPE,
            "vocabulary_size": rows,
            "width": width,
            "dtype": "float32",
            **self.settings,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {
            _INPUTS: np.ascontiguousarray(self.inputs),
            _OUTPUTS: np.ascontiguousarray(self.outputs),
            _COUNTS: self.counts,
        }
        try:
            save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:
            # The library reports a full disk as an error of its own.
            raise OSError(0, str(error)) from error

    @classmethod
    def load(cls, folder: Path) -> WordVectors:
        """Read a checkpoint.

        Raises:
            CheckpointError: it is of another kind, incomplete or damaged.
        """
        config = _read_config(folder)
        if config.get("model_type") != MODEL_TYPE:
            raise CheckpointError(
                f"{folder} holds no word embeddings: model_type in {CONFIG_FILE} is "
                f"{config.get('model_type')!r}, not {MODEL_TYPE!r}"
            )
        try:
            tensors = load_file(folder / WEIGHTS_FILE)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder / WEIGHTS_FILE} cannot be read: {error}") from error
        shape = (config.get("vocabulary_size"), config.get("width"))
        expected = {
            _INPUTS: (shape, "float32"),
            _OUTPUTS: (shape, "float32"),
            _COUNTS: (shape[:1], "int64"),
        }
        found = {name: (tensor.shape, tensor.dtype.name) for name, tensor in tensors.items()}
        if found != expected:
            raise CheckpointError(
                f"{folder / WEIGHTS_FILE} should hold {expected}, as {CONFIG_FILE} says, and "
                f"holds {found}"
            )
        own = ("model_type", "vocabulary_size", "width", "dtype")
        settings = {key: value for key, value in config.items() if key not in own}
        return cls(tensors[_INPUTS], tensors[_OUTPUTS], tensors[_COUNTS], settings)

    def near(self, row: int, k: int, leave_out: frozenset[int]) -> list[tuple[int, float]]:
        """Return the k rows with the largest cosine to a row, and these, falling.

        Args:
            row: whose neighbours.
            k: how many, at most.
            leave_out: rows that are no answer, besides the row itself and rows of zeros.
        """
        lengths = np.linalg.norm(self.inputs, axis=1)
        usable = lengths > 0
        usable[[row, *leave_out]] = False
        cosines = self.inputs @ self.inputs[row]
        cosines /= np.maximum(lengths * lengths[row], np.finfo(np.float32).tiny)
        cosines[~usable] = -np.inf
        order = np.argsort(-cosines, kind="stable")[: min(k, int(usable.sum()))]
        return [(int(other), float(cosines[other])) for other in order]


def is_word_embeddings(folder: Path) -> bool:
    """Whether a directory's config.json says that it holds word embeddings."""
    try:
        return _read_config(folder).get("model_type") == MODEL_TYPE
    except CheckpointError:
        return False


def load_with_words(folder: Path) -> tuple[WordVectors, Tokenizer]:
    """Read a checkpoint and the tokenizer whose ids are its rows.

    Raises:
        CheckpointError: it is of another kind, incomplete or damaged.
    """
    vectors = WordVectors.load(folder)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary_size != len(vectors.inputs):
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size:,} words, the model "
            f"{len(vectors.inputs):,}; they are not of one run"
        )
    return vectors, tokenizer


def nearest(folder: Path, word: str, k: int = 10) -> list[Neighbour]:
    """Return the k words nearest to a word, the nearest first.

    Args:
        folder: a checkpoint of word embeddings.
        word: one word; folded as the tokenizer folds.
        k: how many, at least 1.

    Raises:
        CheckpointError: the folder holds no word embeddings.
        DataError: the word is not in the vocabulary; the message has similar ones.
    """
    vectors, tokenizer = load_with_words(folder)
    special = tokenizer.special.all()
    ids = tokenizer.encode(word.strip())
    if len(ids) != 1 or int(ids[0]) in special:
        raise DataError(_no_word(word, tokenizer, special))
    found = vectors.near(int(ids[0]), max(k, 1), special)
    return [Neighbour(tokenizer.token(row), similarity) for row, similarity in found]


def write_word2vec_text(folder: Path, target: Path) -> int:
    """Write the vectors as word2vec's text format, which gensim and others read.

    The first line has the number of words and of floats; each further line a word and its
    floats, the most frequent word first. Special tokens are left out.

    Returns:
        The number of words.

    Raises:
        CheckpointError: the folder holds no word embeddings.
    """
    vectors, tokenizer = load_with_words(folder)
    special = tokenizer.special.all()
    rows = [row for row in range(len(vectors.inputs)) if row not in special]
    with target.open("w", encoding="utf-8") as file:
        file.write(f"{len(rows)} {vectors.inputs.shape[1]}\n")
        for row in rows:
            # Nine digits give back the very same float32.
            floats = " ".join(f"{value:.9g}" for value in vectors.inputs[row].tolist())
            file.write(f"{tokenizer.token(row)} {floats}\n")
    return len(rows)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_MAX_CONFIG_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no JSON object")
    return config


def _no_word(word: str, tokenizer: Tokenizer, special: frozenset[int]) -> str:
    words = [token for token, row in tokenizer.raw.get_vocab().items() if row not in special]
    near = difflib.get_close_matches(word, words, n=3)
    hint = f"; similar ones are {', '.join(map(repr, near))}" if near else ""
    return f"{word!r} is not one of the {len(words):,} words of the vocabulary{hint}"
