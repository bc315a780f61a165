"""Word embeddings: words a second and quality, beside gensim's word2vec.

    python -m benchmarks.word_embeddings [--rounds 3] [--output FILE]

Both train skip-gram with negative sampling on the same text with the same settings
(gensim's defaults but for sg=1: width 100, window 5, 5 negatives, subsampling 1e-3, rate
0.025 to 0.0001, words that occur 5 times or more) and the same number of threads. They
take turns in one run, so that whatever else the machine does falls on both; the figures
are medians. The text is WikiText-2's validation split, of which every tenth line is held
out, repeated to a few million words.

Words a second count all words of the text, those that are thinned out or unknown too (as
gensim reports them), over the time of training alone; vocabulary and encoding come
before. gensim runs in both of its ways: `sentences` (lists of words in memory) and
`corpus_file` (its own reader, without the interpreter lock); the quicker one counts. In
`whole_run` everything counts, from the file to the saved vectors.

Quality, of each model of each round, on the same words:
- held_out_loss: mean loss of a pair (nats) on the held-out lines; lower is better. One
  function measures both, on the same pairs and the same negatives.
- ppmi_correlation: Spearman's correlation of the cosines of word pairs with those of a
  PPMI-SVD of the same text (Levy and Goldberg 2014); higher is better.
- neighbours_shared: how many of the 10 nearest words two models share, of 500 words:
  ours with gensim's, and gensim's with gensim's of the round before (another seed).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gensim.models
import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from trainer.embeddings.corpus import ArrayCorpus
from trainer.embeddings.native import load
from trainer.embeddings.training import SkipGram, SkipGramOptions

ROOT = Path(__file__).resolve().parent.parent
Matrix = NDArray[np.float32]
# A few million words in all, so that a run takes seconds and not tenths of one.
REPEATS = 12
HELD_OUT_EVERY = 10
FREQUENT = 2000
PAIRS = 50_000
NEIGHBOURS = 10
QUERIES = 500


@dataclass(frozen=True)
class Text:
    """Lines of words, to train on and held out; the words by falling count."""

    lines: list[list[str]]
    held_out: list[list[str]]
    vocabulary: list[str]
    counts: NDArray[np.int64]

    @property
    def words(self) -> int:
        return sum(map(len, self.lines))

    def encode(self, lines: Sequence[Sequence[str]]) -> ArrayCorpus:
        """The same as ids: -1 ends a line, -2 is unknown."""
        rows = {word: row for row, word in enumerate(self.vocabulary)}
        return ArrayCorpus(
            np.array(
                [row for line in lines for row in (*(rows.get(word, -2) for word in line), -1)],
                dtype=np.int32,
            )
        )


@dataclass(frozen=True)
class Trained:
    """The matrices of a run, with the words in the order of Text.vocabulary."""

    inputs: Matrix
    outputs: Matrix
    seconds: float


def read_text(path: Path) -> Text:
    split = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    split = [line for line in split if line]
    held_out = split[::HELD_OUT_EVERY]
    lines = [line for number, line in enumerate(split) if number % HELD_OUT_EVERY] * REPEATS
    model = gensim.models.Word2Vec(min_count=5)
    model.build_vocab(lines)
    vocabulary = list(model.wv.index_to_key)
    counts = np.array([model.wv.get_vecattr(word, "count") for word in vocabulary])
    return Text(lines, held_out, vocabulary, counts)


def train_gensim(text: Text, file: Path, epochs: int, threads: int, seed: int, way: str) -> Trained:
    model = gensim.models.Word2Vec(
        sg=1, hs=0, vector_size=100, window=5, negative=5, sample=1e-3, min_count=5,
        alpha=0.025, min_alpha=0.0001, workers=threads, seed=seed, epochs=epochs,
    )  # fmt: skip
    if way == "sentences":
        model.build_vocab(text.lines)
        source: dict[str, Any] = {"corpus_iterable": text.lines}
    else:
        model.build_vocab(corpus_file=str(file))
        source = {"corpus_file": str(file), "total_words": text.words}
    gc.collect()
    begun = time.perf_counter()
    model.train(total_examples=len(text.lines), epochs=epochs, **source)
    seconds = time.perf_counter() - begun
    order = [model.wv.key_to_index[word] for word in text.vocabulary]
    return Trained(model.wv.vectors[order], model.syn1neg[order], seconds)


def train_ours(
    text: Text, corpus: ArrayCorpus, epochs: int, threads: int, seed: int, kernel: str = ""
) -> Trained:
    options = SkipGramOptions(passes=epochs, threads=threads, seed=seed, kernel=kernel)
    model = SkipGram(text.counts, options)
    gc.collect()
    begun = time.perf_counter()
    model.train(corpus, 0, model.chunks(corpus) * epochs)
    seconds = time.perf_counter() - begun
    return Trained(model.inputs, model.outputs, seconds)


def held_out_loss(text: Text, held_out: ArrayCorpus, trained: Trained) -> float:
    model = SkipGram(text.counts, SkipGramOptions())
    model.inputs[:], model.outputs[:] = trained.inputs, trained.outputs
    return model.loss(held_out)[0]


def unit_rows(matrix: Matrix) -> Matrix:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(lengths, 1e-12), dtype=np.float32)


def ppmi_vectors(text: Text, width: int = 100) -> Matrix:
    """f32[FREQUENT, width]: PPMI of the most frequent words and its largest directions."""
    once = text.encode(text.lines[: len(text.lines) // REPEATS])
    words = once.read(0, once.positions)
    words = words[words != -2]
    together = np.zeros((FREQUENT, FREQUENT))
    for distance in range(1, 6):
        left, right = words[:-distance], words[distance:]
        # A pair across the end of a line does not count.
        ends = np.cumsum(words == -1)
        near = ends[:-distance] == ends[distance:]
        near &= (left >= 0) & (right >= 0) & (left < FREQUENT) & (right < FREQUENT)
        # As the dynamic window weighs them: 5/5 for neighbours down to 1/5.
        np.add.at(together, (left[near], right[near]), (6 - distance) / 5)
    together += together.T
    total = float(together.sum())
    rows = np.maximum(together.sum(axis=1), 1e-12)
    with np.errstate(divide="ignore"):
        information = np.log(together * total / np.outer(rows, rows))
    values, vectors = np.linalg.eigh(np.where(information > 0, information, 0.0))
    largest = np.argsort(-np.abs(values))[:width]
    return np.asarray(vectors[:, largest] * np.sqrt(np.abs(values[largest])), dtype=np.float32)


def correlation(trained: Trained, reference: Matrix) -> float:
    """Spearman's correlation of the cosines of the same random pairs."""
    draw = np.random.default_rng(0)
    left, right = draw.integers(0, FREQUENT, (2, PAIRS))
    ranks = []
    for matrix in (trained.inputs[:FREQUENT], reference):
        rows = unit_rows(matrix)
        cosines = np.einsum("ij,ij->i", rows[left], rows[right])
        ranks.append(np.argsort(np.argsort(cosines)))
    return float(np.asarray(np.corrcoef(np.array(ranks)))[0, 1])


def neighbours_shared(one: Trained, other: Trained) -> float:
    """Share of the nearest words that two models have in common, a mean over words."""
    found = []
    for trained in (one, other):
        rows = unit_rows(trained.inputs[:FREQUENT])
        cosines = rows[:QUERIES] @ rows.T
        np.fill_diagonal(cosines, -np.inf)
        found.append(np.argsort(-cosines, axis=1)[:, :NEIGHBOURS])
    shared = [len(set(a) & set(b)) for a, b in zip(*(each.tolist() for each in found), strict=True)]
    return statistics.mean(shared) / NEIGHBOURS


def whole_run_gensim(file: Path, folder: Path, epochs: int, threads: int) -> float:
    begun = time.perf_counter()
    model = gensim.models.Word2Vec(
        corpus_file=str(file), sg=1, vector_size=100, window=5, negative=5, sample=1e-3,
        min_count=5, workers=threads, epochs=epochs,
    )  # fmt: skip
    model.save(str(folder / "gensim.model"))
    return time.perf_counter() - begun


def whole_run_ours(file: Path, folder: Path, epochs: int, threads: int) -> float:
    """`casemate train word-embeddings` in this process, from the file to `final/`."""
    from trainer.embeddings.session import train_embeddings
    from trainer.recipe.parse import load_recipe
    from trainer.reporting.reporter import Reporters

    words = [f"data.train={file}", "data.format=lines", f"run.steps={epochs}", "report.html=false"]
    loaded = load_recipe("word-embeddings", words)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    begun = time.perf_counter()
    train_embeddings(loaded, folder / "run", Reporters([]))
    return time.perf_counter() - begun


def measure(text: Text, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Let both take turns; return every figure of every round."""
    file = folder / "text.txt"
    file.write_text("".join(" ".join(line) + "\n" for line in text.lines), encoding="utf-8")
    corpus, held_out = text.encode(text.lines), text.encode(text.held_out)
    reference = ppmi_vectors(text)
    epochs, threads = options.epochs, options.threads
    kernels = load().kernels()
    runs: dict[str, Callable[[int], Trained]] = {
        "gensim sentences": lambda seed: train_gensim(
            text, file, epochs, threads, seed, "sentences"
        ),
        f"casemate {kernels[0]}": lambda seed: train_ours(text, corpus, epochs, threads, seed),
        "gensim corpus_file": lambda seed: train_gensim(
            text, file, epochs, threads, seed, "corpus_file"
        ),
        f"casemate {kernels[-1]}": lambda seed: train_ours(
            text, corpus, epochs, threads, seed, kernels[-1]
        ),
    }
    rounds: list[dict[str, Any]] = []
    earlier: Trained | None = None
    for number in range(options.rounds):
        made = {name: run(number + 1) for name, run in runs.items()}
        figures: dict[str, Any] = {
            name: {
                "words_per_second": round(text.words * epochs / trained.seconds),
                "held_out_loss": round(held_out_loss(text, held_out, trained), 4),
                "ppmi_correlation": round(correlation(trained, reference), 4),
            }
            for name, trained in made.items()
        }
        ours, theirs = made[f"casemate {kernels[0]}"], made["gensim sentences"]
        shared = {"ours and gensim": round(neighbours_shared(ours, theirs), 3)}
        if earlier is not None:
            shared["gensim and gensim"] = round(neighbours_shared(theirs, earlier), 3)
        figures["neighbours_shared"], earlier = shared, theirs
        figures["whole_run_seconds"] = {
            "gensim": round(whole_run_gensim(file, folder, epochs, threads), 2),
            "casemate": round(whole_run_ours(file, folder / str(number), epochs, threads), 2),
        }
        rounds.append(figures)
        print(json.dumps(figures, indent=1), flush=True)
    return {"names": list(runs), "rounds": rounds}


def summarize(names: Sequence[str], rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and the ratio to gensim's quicker way."""
    table = {
        name: {
            figure: statistics.median(each[name][figure] for each in rounds)
            for figure in ("words_per_second", "held_out_loss", "ppmi_correlation")
        }
        for name in names
    }
    quicker = max(table[name]["words_per_second"] for name in names if name.startswith("gensim"))
    ours = next(name for name in names if name.startswith("casemate"))
    whole = {
        name: statistics.median(each["whole_run_seconds"][name] for each in rounds)
        for name in ("gensim", "casemate")
    }
    return {
        "table": table,
        "words_per_second_over_gensim": round(table[ours]["words_per_second"] / quicker, 2),
        "whole_run_seconds": whole,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None, help="instead of results/")
    options = parser.parse_args()
    shared = Path(os.environ.get("CASEMATE_SHARED", ROOT / ".." / "shared")).resolve()
    source = next(
        (path for path in (shared / "data/wikitext2/valid.txt", shared / "wikitext2/valid.txt")
         if path.is_file()), None,
    )  # fmt: skip
    if source is None:
        raise SystemExit(f"{shared} has no wikitext2/valid.txt; set CASEMATE_SHARED")
    text = read_text(source)
    result: dict[str, Any] = {
        "gensim": version("gensim"),
        "words": text.words,
        "vocabulary": len(text.vocabulary),
        "repeats": REPEATS,
        "epochs": options.epochs,
        "threads": options.threads,
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
    }
    with tempfile.TemporaryDirectory() as name:
        measured = measure(text, options, Path(name))
    result |= summarize(measured["names"], measured["rounds"])
    result |= measured
    print(json.dumps({key: result[key] for key in ("table", "words_per_second_over_gensim")}))
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    else:
        print(f"written to {report.write('word_embeddings', result)}")


if __name__ == "__main__":
    main()
