from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.trainer.embeddings.texts import GROUP_WORDS, VOCABULARY, grouped_words
from trainer.embeddings.corpus import ArrayCorpus, count_words
from trainer.embeddings.training import CHUNK, ChunkReport, SkipGram, SkipGramOptions
from trainer.errors import DivergenceError

OPTIONS = SkipGramOptions(width=20, window=3, negatives=4, subsample=0, passes=2, seed=3)
CORPUS = ArrayCorpus(grouped_words(7000))
COUNTS, WORDS = count_words(CORPUS, VOCABULARY)


def model(**changes) -> SkipGram:
    return SkipGram(COUNTS, dataclasses.replace(OPTIONS, **changes))


def trained(**changes) -> SkipGram:
    made = model(**changes)
    made.train(CORPUS, 0, made.chunks(CORPUS) * made.options.passes)
    return made


def same(one: SkipGram, other: SkipGram) -> bool:
    return bool((one.inputs == other.inputs).all() and (one.outputs == other.outputs).all())


def test_with_one_thread_and_a_seed_the_result_is_bit_identical():
    one = trained()
    assert same(one, trained())
    assert not same(one, trained(seed=4))


def test_going_on_between_any_two_chunks_gives_the_very_same_result():
    whole = trained()
    first = model()
    middle = first.chunks(CORPUS) + 1
    first.train(CORPUS, 0, middle)
    second = model()
    second.inputs[:], second.outputs[:] = first.inputs, first.outputs
    second.train(CORPUS, middle, second.chunks(CORPUS) * 2)
    assert same(whole, second)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_words_that_keep_company_come_to_lie_near_one_another(threads):
    made = trained(threads=threads, learning_rate=0.05)
    vectors = made.inputs / np.linalg.norm(made.inputs, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    groups = np.arange(VOCABULARY) // GROUP_WORDS
    inside = groups[:, None] == groups
    assert cosines[inside].min() > cosines[~inside].max()


def test_training_lowers_the_loss_on_held_out_text():
    held_out = ArrayCorpus(grouped_words(500, seed=9))
    fresh = model()
    # A model that knows nothing gives each of 1 + 4 answers one half, or a little less of
    # them where a negative was the word itself.
    assert 4.5 * np.log(2) < fresh.loss(held_out)[0] <= 5 * np.log(2) + 1e-3
    assert trained().loss(held_out)[0] < 0.9 * fresh.loss(held_out)[0]


def test_measuring_changes_nothing_and_gives_the_same_figure_twice():
    made = trained()
    before = made.inputs.copy()
    assert made.loss(CORPUS) == made.loss(CORPUS)
    assert (made.inputs == before).all()


def test_each_chunk_is_reported_once_with_its_falling_rate():
    made = model(threads=2)
    reports: list[ChunkReport] = []
    chunks = made.chunks(CORPUS) * 2
    assert made.chunks(CORPUS) == -(-CORPUS.positions // CHUNK)
    assert made.train(CORPUS, 0, chunks, report=reports.append) == chunks
    assert [report.done for report in reports] == list(range(1, chunks + 1))
    reports.sort(key=lambda report: report.chunk)
    assert [report.chunk for report in reports] == list(range(chunks))
    rates = [report.learning_rate for report in reports]
    assert rates[0] == OPTIONS.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > OPTIONS.final_rate
    assert sum(report.kept for report in reports) == 2 * WORDS


def test_a_stop_ends_training_after_the_chunks_that_were_begun():
    made = model()
    reports: list[ChunkReport] = []
    done = made.train(CORPUS, 0, 6, stop=lambda: len(reports) == 2, report=reports.append)
    assert done == len(reports) < 6


def test_a_loss_that_is_no_number_stops_and_names_the_place():
    made = model()
    made.outputs[:] = np.nan
    with pytest.raises(DivergenceError, match=r"tokens 0 to 20,000 of pass 1.*learning_rate"):
        made.train(CORPUS, 0, 2)


def test_a_weight_that_is_no_number_is_found():
    made = model()
    made.check(CORPUS, 0)
    made.inputs[7, 3] = np.inf
    with pytest.raises(DivergenceError, match=r"a weight is no number.*pass 2"):
        made.check(CORPUS, made.chunks(CORPUS))


def test_what_goes_wrong_in_a_thread_is_raised_by_train():
    words = grouped_words(5000)
    words[25_000] = VOCABULARY
    with pytest.raises(IndexError, match="position 5000"):
        model(threads=2).train(ArrayCorpus(words), 0, 3)


def test_the_columns_that_pad_a_row_stay_zero():
    made = trained()
    for matrix in (made.inputs, made.outputs):
        memory = matrix.base
        assert memory is not None
        assert memory.size >= VOCABULARY * 32
        assert np.count_nonzero(memory) == np.count_nonzero(matrix)


def test_a_word_that_does_not_occur_has_no_vector():
    counts = np.append(COUNTS, 0)
    made = SkipGram(counts, OPTIONS)
    made.train(CORPUS, 0, 1)
    assert not made.inputs[-1].any()
    assert not made.outputs[-1].any()


def test_unknown_words_are_counted_and_no_others():
    counts, words = count_words(ArrayCorpus(np.array([0, -2, 1, -1, 1, -2])), 3)
    assert counts.tolist() == [1, 2, 0]
    assert words == 5


def test_control_c_ends_a_long_training_at_once():
    program = """
        import numpy as np
        from trainer.embeddings.corpus import ArrayCorpus
        from trainer.embeddings.training import SkipGram, SkipGramOptions

        words = np.random.default_rng(0).integers(0, 500, 400_000).astype(np.int32)
        model = SkipGram(np.full(500, 800), SkipGramOptions(subsample=0, passes=10**6, threads=2))
        shown = lambda report: print(report.done, flush=True)
        model.train(ArrayCorpus(words), 0, 20 * 10**6, report=shown)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert errors.rstrip().endswith("KeyboardInterrupt")
