from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.trainer.embeddings import reference
from trainer.embeddings import native
from trainer.embeddings.training import aligned_rows
from trainer.embeddings.vocabulary import alias_table, keep_thresholds
from trainer.errors import TrainingError

sgns = native.load()
KERNELS = sgns.kernels()


class Case:
    """Small matrices, a text and tables, with everything valid."""

    def __init__(self, *, vocabulary: int = 11, width: int = 16, length: int = 90) -> None:
        draw = np.random.default_rng(5)
        self.inputs = aligned_rows(vocabulary, width)
        self.outputs = aligned_rows(vocabulary, width)
        # Products of two rows are about 0.6 in size, whatever the width.
        self.inputs[:] = draw.normal(0, 0.8 * width**-0.25, self.inputs.shape)
        self.outputs[:] = draw.normal(0, 0.8 * width**-0.25, self.outputs.shape)
        self.words = draw.integers(-2, vocabulary, length).astype(np.int32)
        counts = np.arange(1, vocabulary + 1) ** 2
        self.keep = keep_thresholds(counts, 0.05)
        self.alias = alias_table(counts)

    def tables(self):
        return self.words, self.keep, self.alias

    def train(self, **changes):
        settings = {"window": 3, "negatives": 5, "seed": 77, "rate": 0.1, **changes}
        arrays = {
            name: settings.pop(name, getattr(self, name))
            for name in ("inputs", "outputs", "words", "keep", "alias")
        }
        return sgns.train(*arrays.values(), **settings)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("width", [16, 48, 112, 144, 304, 1040])
def test_every_kernel_does_what_the_reference_does(kernel, width):
    case = Case(width=width)
    inputs, outputs, kept, pairs, sampled = reference.train(
        case.inputs, case.outputs, *case.tables(), window=3, negatives=5, seed=77, rate=0.1
    )
    result = case.train(kernel=kernel)
    assert result[:2] == (kept, pairs)
    assert result[2] == pytest.approx(sampled, rel=1e-4)
    assert result[3] == -(-pairs // 16)
    np.testing.assert_allclose(case.inputs, inputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(case.outputs, outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("window", "negatives"), [(1, 1), (64, 64), (5, 7), (2, 8), (4, 23)])
def test_windows_and_negatives_of_every_size(kernel, window, negatives):
    case = Case(vocabulary=200, length=45)
    settings = {"window": window, "negatives": negatives, "seed": 3, "rate": 0.05}
    inputs, outputs, *_ = reference.train(case.inputs, case.outputs, *case.tables(), **settings)
    case.train(kernel=kernel, **settings)
    np.testing.assert_allclose(case.inputs, inputs, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(case.outputs, outputs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_measuring_sums_the_loss_of_all_pairs_and_changes_nothing(kernel):
    case = Case()
    before = case.inputs.copy(), case.outputs.copy()
    settings = {"window": 3, "negatives": 20, "seed": 9}
    _, pairs = reference.pairs_of(*case.tables(), **settings)
    expected = sum(
        reference.pair_loss(case.inputs.astype(float), case.outputs.astype(float), pair)
        for pair in pairs
    )
    result = sgns.measure(case.inputs, case.outputs, *case.tables(), kernel=kernel, **settings)
    assert result[1] == result[3] == len(pairs)
    assert result[2] == pytest.approx(expected, rel=1e-5)
    assert (case.inputs == before[0]).all()
    assert (case.outputs == before[1]).all()


def test_large_products_neither_overflow_nor_lose_their_sign():
    case = Case()
    case.inputs[:], case.outputs[:] = 100, 100
    _, pairs, loss, counted = sgns.measure(
        case.inputs, case.outputs, *case.tables(), window=2, negatives=5, seed=1
    )
    assert counted == pairs > 0
    assert np.isfinite(loss)
    assert loss / counted > 10
    case.train()
    assert np.isfinite(case.inputs).all()


def test_a_nan_shows_in_the_loss():
    case = Case(length=2000)
    case.outputs[:] = np.nan
    assert np.isnan(case.train()[2])


def test_words_do_not_meet_across_the_end_of_a_sentence():
    case = Case()
    words = np.array([3, -1, 4, -1, -1, 5], dtype=np.int32)
    assert case.train(words=words, keep=np.full(11, 2**32 - 1, dtype=np.uint32))[:2] == (3, 0)


def test_words_around_an_unknown_one_are_neighbours():
    case = Case()
    words = np.array([3, -2, -2, 4], dtype=np.int32)
    keep = np.full(11, 2**32 - 1, dtype=np.uint32)
    assert case.train(words=words, keep=keep, window=1)[:2] == (2, 2)


def test_an_empty_text_trains_nothing():
    assert Case().train(words=np.array([], dtype=np.int32)) == (0, 0, 0.0, 0)


@pytest.mark.parametrize("word", [11, 12, 2**31 - 1, -3, -(2**31)])
def test_an_id_outside_the_vocabulary_is_refused_by_position(word):
    case = Case()
    case.words[40] = word
    with pytest.raises(IndexError, match="position 40"):
        case.train()


def shifted(array: np.ndarray) -> np.ndarray:
    """The same numbers, 4 bytes off the alignment."""
    memory = np.zeros(array.size + 32, dtype=array.dtype)
    start = (-memory.ctypes.data // 4) % 16 + 1
    moved = memory[start : start + array.size].reshape(array.shape)
    moved[:] = array
    return moved


BAD_ARRAYS = {
    "inputs of doubles": (TypeError, lambda c: {"inputs": c.inputs.astype(np.float64)}),
    "words of 64 bits": (TypeError, lambda c: {"words": c.words.astype(np.int64)}),
    "keep signed": (TypeError, lambda c: {"keep": c.keep.astype(np.int32)}),
    "alias of doubles": (TypeError, lambda c: {"alias": c.alias.astype(np.float64)}),
    "words no buffer": (TypeError, lambda c: {"words": [1, 2, 3]}),
    "inputs not contiguous": (ValueError, lambda c: {"inputs": c.inputs[:, ::2]}),
    "inputs of one dimension": (ValueError, lambda c: {"inputs": c.inputs.reshape(-1)}),
    "words of two dimensions": (ValueError, lambda c: {"words": c.words.reshape(2, -1)}),
    "outputs with fewer rows": (ValueError, lambda c: {"outputs": c.outputs[:-1]}),
    "outputs not aligned": (ValueError, lambda c: {"outputs": shifted(c.outputs)}),
    "one matrix twice": (ValueError, lambda c: {"outputs": c.inputs}),
    "keep too short": (ValueError, lambda c: {"keep": c.keep[:-1]}),
    "alias too short": (ValueError, lambda c: {"alias": c.alias[:-1]}),
    "alias of three columns": (ValueError, lambda c: {"alias": np.zeros((11, 3), np.uint32)}),
    "alias beyond the words": (ValueError, lambda c: {"alias": np.full((11, 2), 11, np.uint32)}),
    "no words at all": (
        ValueError,
        lambda c: {"inputs": c.inputs[:0], "outputs": c.outputs[:0], "keep": c.keep[:0]},
    ),
    "rows of 8 floats": (
        ValueError,
        lambda c: {"inputs": c.inputs.reshape(22, 8), "outputs": c.outputs.reshape(22, 8)},
    ),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_wrong_buffer_is_refused(name):
    case = Case()
    kind, change = BAD_ARRAYS[name]
    with pytest.raises(kind):
        case.train(**change(case))


def test_a_read_only_matrix_is_refused_for_training_and_fine_for_measuring():
    case = Case()
    case.inputs.flags.writeable = False
    case.outputs.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        case.train()
    sgns.measure(case.inputs, case.outputs, *case.tables(), window=2, negatives=2, seed=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", 0),
        ("window", 65),
        ("negatives", 0),
        ("negatives", 65),
        ("rate", float("nan")),
        ("rate", float("inf")),
        ("rate", -0.1),
        ("kernel", "abacus"),
    ],
)
def test_a_setting_outside_its_limits_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Case().train(**{name: value})


def test_the_interpreter_runs_on_while_the_native_code_works():
    case = Case(vocabulary=2000, width=112, length=300_000)
    case.keep[:] = 2**32 - 1
    first = case.inputs.copy()
    seen = []
    worker = threading.Thread(target=case.train)
    worker.start()
    while worker.is_alive():
        seen.append(case.inputs.copy())
    worker.join()
    # Were the lock held, the matrix would be seen as it was and as it became, never between.
    assert any((look != first).any() and (look != case.inputs).any() for look in seen)


def test_what_was_not_built_is_named_with_the_remedy():
    with pytest.raises(TrainingError, match=r"pip install --no-deps --editable"):
        native.load("trainer.embeddings._no_such_module")
