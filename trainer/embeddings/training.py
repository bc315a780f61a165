"""Passes over a text with threads: what surrounds the native inner loop.

The text is cut into chunks of CHUNK positions. Threads take chunks in order and train the
same two matrices without locks (Hogwild); the learning rate falls from chunk to chunk.
A chunk's random numbers depend on the seed and its number alone, so with one thread the
result is bit-identical from run to run, and the same whether or not it was interrupted
between two chunks.

It refuses figures that are no numbers: the loss of each chunk and, when asked, every
weight is checked.
"""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.embeddings.corpus import Corpus
from trainer.embeddings.native import load
from trainer.embeddings.vocabulary import alias_table, keep_thresholds
from trainer.errors import DivergenceError

# Positions of one chunk: some 10 ms of work, so that the interpreter's share is small and
# Ctrl-C is answered at once.
CHUNK = 20_000
# The native rows are whole numbers of 64 bytes; the columns that pad them stay 0.
_ROW_FLOATS = 16
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SkipGramOptions:
    """What decides the result, besides the text.

    Attributes:
        width: D, floats of a word's vector.
        window: words to each side, at most; each centre draws 1 to `window`.
        negatives: drawn for each pair.
        subsample: threshold of thinning frequent words; 0 is off.
        learning_rate: at the first chunk.
        final_rate: at the end; it falls linearly.
        passes: over the text.
        seed: of the vectors, the thinning, the windows and the negatives.
        threads: how many train at the same time; 1 is deterministic.
        kernel: name of the native kernel; empty takes the fastest.
    """

    width: int = 100
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    learning_rate: float = 0.025
    final_rate: float = 0.0001
    passes: int = 5
    seed: int = 1
    threads: int = 1
    kernel: str = ""


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """What one chunk came to.

    Attributes:
        chunk: its number, from 0 over all passes.
        done: chunks of the run that are finished, this one included.
        kept: words that were left after thinning.
        pairs: pairs trained on.
        loss: mean loss of a pair (nats): of the word itself and its negatives.
        learning_rate: of the chunk.
    """

    chunk: int
    done: int
    kept: int
    pairs: int
    loss: float
    learning_rate: float


def aligned_rows(rows: int, width: int) -> Matrix:
    """Return zeros f32[rows, width rounded up to 16] that start at a multiple of 64 bytes."""
    columns = -(-width // _ROW_FLOATS) * _ROW_FLOATS
    memory = np.zeros(rows * columns + _ROW_FLOATS, dtype=np.float32)
    skip = (-memory.ctypes.data // 4) % _ROW_FLOATS
    return memory[skip : skip + rows * columns].reshape(rows, columns)


class SkipGram:
    """Two matrices and what trains them.

    Args:
        counts: i64[V] occurrences of each word in the text; 0 for words that are not
            to be drawn or trained.
        options: see `SkipGramOptions`.

    Attributes:
        options: see `SkipGramOptions`.
        counts: as given.

    Raises:
        ValueError: no word has a count.
    """

    def __init__(self, counts: NDArray[np.int64], options: SkipGramOptions) -> None:
        self.options = options
        self.counts = counts
        self._native = load()
        self._keep = keep_thresholds(counts, options.subsample)
        self._alias = alias_table(counts)
        self._inputs = aligned_rows(len(counts), options.width)
        self._outputs = aligned_rows(len(counts), options.width)
        draw = np.random.Generator(np.random.Philox(options.seed))
        # Small and even for the inputs, nothing for the outputs: as word2vec does, in gensim's
        # range, which is twice as wide and gives a lower loss on held-out text.
        even = draw.random(self.inputs.shape, dtype=np.float32) * 2 - 1
        self.inputs[:] = even / options.width
        self.inputs[counts == 0] = 0

    @property
    def inputs(self) -> Matrix:
        """f32[V, D] the words' vectors: a view, not contiguous."""
        return self._inputs[:, : self.options.width]

    @property
    def outputs(self) -> Matrix:
        """f32[V, D] the vectors they are held against: a view, not contiguous."""
        return self._outputs[:, : self.options.width]

    def chunks(self, corpus: Corpus) -> int:
        """Chunks of one pass over a text."""
        return -(-corpus.positions // CHUNK)

    def train(
        self,
        corpus: Corpus,
        first: int,
        last: int,
        *,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[ChunkReport], None] = lambda _: None,
    ) -> int:
        """Train on the chunks [first, last) of all passes.

        Args:
            corpus: the text.
            first: the first chunk's number, counted over all passes.
            last: one after the last's.
            stop: asked after each chunk; True ends training after those begun.
            report: told of each chunk as it ends, from the calling thread.

        Returns:
            The number of the first chunk that was not trained on: `last` unless stopped.

        Raises:
            DivergenceError: the loss of a chunk is no number.
            IndexError: the text holds an id outside the vocabulary.
        """
        ending = threading.Event()
        results: queue.SimpleQueue[ChunkReport | BaseException | None] = queue.SimpleQueue()
        numbers = _Shared(iter(range(first, last)))
        # Threads get two chunks each ahead of what was reported, so that a stop is near.
        ahead = threading.Semaphore(2 * self.options.threads)

        def work() -> None:
            try:
                while ahead.acquire() and not ending.is_set():
                    number = numbers.take()
                    if number is None:
                        break
                    results.put(self._train_chunk(corpus, number))
            except BaseException as error:
                # It is raised again where somebody can see it: in the calling thread.
                results.put(error)
            results.put(None)

        workers = [
            threading.Thread(target=work, name=f"skip-gram-{i}", daemon=True)
            for i in range(self.options.threads)
        ]
        for worker in workers:
            worker.start()
        done = first
        try:
            for result in _until_all_end(results, len(workers)):
                done += 1
                if not math.isfinite(result.loss):
                    raise DivergenceError(self._place(corpus, result.chunk, "the loss"))
                report(dataclasses.replace(result, done=done))
                if stop():
                    ending.set()
                ahead.release()
        finally:
            ending.set()
            ahead.release(len(workers))
            for worker in workers:
                worker.join()
        return done

    def check(self, corpus: Corpus, chunk: int) -> None:
        """Look at every weight.

        Raises:
            DivergenceError: one is no number; names the place in the text that was reached.
        """
        for matrix in (self._inputs, self._outputs):
            # The sum of floats cannot overflow a double, and needs no array of truths.
            if not np.isfinite(matrix.sum(dtype=np.float64)):
                raise DivergenceError(self._place(corpus, chunk, "a weight"))

    def loss(self, corpus: Corpus) -> tuple[float, int]:
        """Return the mean loss of a pair (nats) on a text, and the number of pairs.

        Thinning, windows and negatives are drawn as in training, from a seed of its own,
        so two models with the same words are measured on the same pairs. Without a pair the
        loss is NaN.
        """
        total, pairs = 0.0, 0
        for chunk in range(self.chunks(corpus)):
            _, _, loss, counted = self._native.measure(
                self._inputs,
                self._outputs,
                corpus.read(chunk * CHUNK, min((chunk + 1) * CHUNK, corpus.positions)),
                self._keep,
                self._alias,
                window=self.options.window,
                negatives=self.options.negatives,
                seed=_chunk_seed(0, chunk),
                kernel=self.options.kernel,
            )
            total += loss
            pairs += counted
        return (total / pairs if pairs else math.nan), pairs

    def rate(self, chunk: int, chunks: int) -> float:
        """Return the learning rate of a chunk, of `chunks` over all passes."""
        first, final = self.options.learning_rate, self.options.final_rate
        return first + (final - first) * chunk / chunks

    def _train_chunk(self, corpus: Corpus, number: int) -> ChunkReport:
        in_pass = self.chunks(corpus)
        start = number % in_pass * CHUNK
        rate = self.rate(number, in_pass * self.options.passes)
        kept, pairs, loss, counted = self._native.train(
            self._inputs,
            self._outputs,
            corpus.read(start, min(start + CHUNK, corpus.positions)),
            self._keep,
            self._alias,
            window=self.options.window,
            negatives=self.options.negatives,
            seed=_chunk_seed(self.options.seed, number),
            kernel=self.options.kernel,
            rate=rate,
        )
        return ChunkReport(number, 0, kept, pairs, loss / counted if counted else 0.0, rate)

    def _place(self, corpus: Corpus, chunk: int, what: str) -> str:
        number = chunk % self.chunks(corpus)
        return (
            f"{what} is no number after the tokens {number * CHUNK:,} to "
            f"{min((number + 1) * CHUNK, corpus.positions):,} of pass "
            f"{chunk // self.chunks(corpus) + 1}; a lower optimizer.learning_rate than "
            f"{self.options.learning_rate:g} helps"
        )


class _Shared:
    """An iterator that several threads take from."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._lock = threading.Lock()

    def take(self) -> int | None:
        with self._lock:
            return next(self._numbers, None)


def _until_all_end(
    results: queue.SimpleQueue[ChunkReport | BaseException | None], workers: int
) -> Iterator[ChunkReport]:
    """Yield what workers report until each has said its end; raise what one of them raised."""
    while workers:
        result = results.get()
        if isinstance(result, BaseException):
            raise result
        if result is None:
            workers -= 1
        else:
            yield result


def _chunk_seed(seed: int, chunk: int) -> int:
    return int(np.random.SeedSequence((seed, chunk)).generate_state(1, np.uint64)[0])
