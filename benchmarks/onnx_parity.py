"""Every family of the trainer, exported: the graph against the network that was saved.

    python -m benchmarks.onnx_parity [--passages 50]

For each family and each objective that it can learn, a small network with weights from a seed
is saved as a checkpoint is, with a tokenizer trained on the same text, exported to ONNX, and run
by ONNX Runtime on passages that are evenly spread over WikiText-2's validation split, in
batches with padding. The largest difference of an output is given, over tokens that are no
padding; at most 1e-3 is promised. Decoders are exported to GGUF in f16 as well: llama.cpp is
asked for its most likely token at each of the places where transformers went on from a passage.

What is compared is arithmetic, so nothing is trained: weights are made large enough that
outputs differ from token to token. A family or an objective that is new to the trainer and has no
case here is an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.gguf_parity import compare, passages, reference
from benchmarks.prompts import shared_folder
from compiler.gguf_export.export import export_gguf
from compiler.onnx_export.export import export_onnx
from compiler.onnx_export.optimum_process import perform
from compiler.onnx_export.result import OnnxExport
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.embeddings.vectors import WordVectors
from trainer.models.build import build_network
from trainer.models.load import load_network
from trainer.recipe.schema import FITTING, ModelOptions, ObjectiveOptions, TokenizerOptions

PACKAGES = (
    "onnxruntime",
    "onnx",
    "optimum",
    "optimum-onnx",
    "llama-cpp-python",
    *report.TRAINING_PACKAGES,
)
PROMISE = 1e-3
CONTEXT = 128
TOKENS = 64
VOCABULARY = 1024
BATCH = 5
LABELS = ("bad", "fair", "good")
_LABELLED = ("classification", "tagging")
_WORDS = "word-embeddings"
_SIZES = {"layers": 2, "width": 64, "heads": 4}
_NOISE = 0.1

Feeds = dict[str, NDArray[np.int64]]
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """A network: family, objective, and what differs from the usual options."""

    family: str
    objective: str
    model: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, Any] = field(default_factory=dict)


CASES: Mapping[str, Case] = {
    "decoder": Case("decoder", "next-token"),
    "decoder, untied, shared keys": Case(
        "decoder", "next-token", {"tie_embeddings": False, "kv_heads": 2}
    ),
    "decoder, classifier": Case("decoder", "classification"),
    "encoder": Case("encoder", "masked"),
    "encoder, classifier": Case("encoder", "classification"),
    "encoder, classifier by mean": Case("encoder", "classification", {"pooling": "mean"}),
    "encoder, tagger": Case("encoder", "tagging"),
    "encoder, embedder": Case("encoder", "contrastive", {"pooling": "mean"}),
    "encoder-decoder, infilling": Case("seq2seq", "infilling"),
    "encoder-decoder, untied": Case("seq2seq", "sequence-to-sequence", {"tie_embeddings": False}),
    "LSTM": Case("recurrent", "next-token"),
    "GRU, untied": Case("recurrent", "next-token", {"cell": "gru", "tie_embeddings": False}),
    "LSTM, adaptive softmax": Case(
        "recurrent", "next-token", {}, {"softmax": "adaptive", "cutoffs": (200, 600)}
    ),
    "LSTM, classifier": Case("recurrent", "classification"),
    "convolution, classifier": Case("convolution", "classification", {"filters": 16}),
    "word embeddings": Case(_WORDS, "negative-sampling"),
}


def uncovered() -> list[tuple[str, str]]:
    """Return the families and objectives of the trainer that no case stands for."""
    covered = {(case.family, case.objective) for case in CASES.values()}
    known = [(family, kind) for family, kinds in FITTING.items() for kind in kinds]
    return [pair for pair in known if pair not in covered]


def measure(name: str, folder: Path, text: str, tokenizer: Tokenizer, count: int) -> dict[str, Any]:
    """Make the network of a case in a new folder, export it, and compare."""
    case = CASES[name]
    source = folder / "final"
    source.mkdir(parents=True)
    cut = passages(text, _plain(tokenizer), count, TOKENS)
    if case.family == _WORDS:
        pairs = _words(source, tokenizer, cut)
    else:
        pairs = _network(case, source, tokenizer, cut)
    made = export_onnx(source, folder / "onnx", run=perform)
    largest, scale = _differences(made, pairs)
    found: dict[str, Any] = {
        "model": name,
        "family": case.family,
        "objective": case.objective,
        "exported_as": made.task,
        "tokens": sum(map(len, cut)),
        "max_difference": float(f"{largest:.3g}"),
        "largest_output": round(scale, 2),
    }
    if (case.family, case.objective) == ("decoder", "next-token"):
        found["gguf_f16"] = _greedy(source, folder / "model.gguf", cut)
    return found


def _plain(tokenizer: Tokenizer) -> Any:
    """Return the tokenizer as `passages` asks for tokens."""
    return lambda text: {"input_ids": [int(token) for token in tokenizer.encode(text)]}


def _network(
    case: Case, source: Path, tokenizer: Tokenizer, cut: Sequence[list[int]]
) -> list[tuple[Feeds, Values]]:
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    network = build_network(
        ModelOptions(**{"family": case.family, **_SIZES, **case.model}),
        ObjectiveOptions(kind=case.objective, **case.learned),
        vocabulary_size=tokenizer.vocabulary_size,
        context=CONTEXT,
        special=tokenizer.special,
        labels=LABELS if case.objective in _LABELLED else (),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(_NOISE * torch.randn(parameter.shape))
    network.save(source)
    tokenizer.save(source, context=CONTEXT)
    network = load_network(source).eval()
    pairs = []
    for feeds in _batches(cut, tokenizer.special.pad or 0, pair=case.family == "seq2seq"):
        with torch.no_grad():
            output = network({key: torch.from_numpy(array) for key, array in feeds.items()})
            if case.objective == "contrastive":
                output = torch.nn.functional.normalize(output, dim=-1)
        pairs.append((feeds, output.numpy()))
    return pairs


def _words(
    source: Path, tokenizer: Tokenizer, cut: Sequence[list[int]]
) -> list[tuple[Feeds, Values]]:
    size = tokenizer.vocabulary_size
    table = np.random.default_rng(1).standard_normal((size, _SIZES["width"])).astype(np.float32)
    WordVectors(table, table * np.float32(-1), np.arange(size), {"window": 5}).save(source)
    return [
        (feeds, table[feeds["input_ids"]] * feeds["attention_mask"][:, :, None])
        for feeds in _batches(cut, 0, pair=False)
    ]


def _batches(cut: Sequence[list[int]], pad: int, *, pair: bool) -> Iterator[Feeds]:
    """Yield passages as batches; every other one is cut to half, so that rows are padded."""
    rows = [ids[: len(ids) // (1 + number % 2)] for number, ids in enumerate(cut)]
    for begin in range(0, len(rows), BATCH):
        some = rows[begin : begin + BATCH]
        longest = max(map(len, some))
        feeds: Feeds = {
            "input_ids": np.array([ids + [pad] * (longest - len(ids)) for ids in some]),
            "attention_mask": np.array(
                [[1] * len(ids) + [0] * (longest - len(ids)) for ids in some]
            ),
        }
        if pair:
            feeds["decoder_input_ids"] = np.array([ids[: TOKENS // 4] for ids in some])
        yield feeds


def _differences(made: OnnxExport, pairs: Sequence[tuple[Feeds, Values]]) -> tuple[float, float]:
    """Return the largest difference from what was wanted, and the largest output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(made.graph), options, providers=["CPUExecutionProvider"]
    )
    names = {value.name for value in session.get_inputs()}
    largest = scale = 0.0
    for feeds, wanted in pairs:
        given = {key: array for key, array in feeds.items() if key in names}
        if "token_type_ids" in names:
            given["token_type_ids"] = np.zeros_like(feeds["input_ids"])
        found = session.run(None, given)[0]
        apart = np.abs(found.astype(np.float64) - wanted)
        if apart.ndim == 3 and "decoder_input_ids" not in feeds:
            apart = apart[feeds["attention_mask"] == 1]
        largest, scale = max(largest, float(apart.max())), max(scale, float(np.abs(wanted).max()))
    return largest, scale


def _greedy(source: Path, path: Path, cut: Sequence[list[int]]) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source, local_files_only=True, dtype=torch.float32
    ).eval()
    made = export_gguf(source, path, dtype="f16", report=lambda _: None)
    return compare(made.path, [reference(model, ids) for ids in cut])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure every case, write the result, and return it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--passages", type=int, default=50)
    parser.add_argument("--only", choices=CASES, help="one case; writes nothing")
    options = parser.parse_args(arguments)
    if left := uncovered():
        sys.exit(f"no case stands for {', '.join(f'{f}: {o}' for f, o in left)}")
    source = shared_folder() / "data" / "wikitext2" / "valid.txt"
    text = source.read_text(encoding="utf-8")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in [options.only] if options.only else CASES:
            family = CASES[name].family
            kind = "bpe" if family != _WORDS else "word"
            words = TokenizerOptions(kind=kind, vocabulary_size=VOCABULARY)
            tokenizer = train_tokenizer(words, text.splitlines(), family).tokenizer
            place = Path(folder) / name.replace(" ", "-")
            rows.append(measure(name, place, text, tokenizer, options.passages))
            print(rows[-1], flush=True)
    result = {
        "promised_max_difference": PROMISE,
        "passages": options.passages,
        "largest_of_all": max(row["max_difference"] for row in rows),
        "rows": rows,
    }
    if options.only is None:
        print(report.write("onnx_parity", result, PACKAGES))
    if result["largest_of_all"] > PROMISE:
        sys.exit(f"a graph is further off than {PROMISE}")
    return result


if __name__ == "__main__":
    main()
