"""A GGUF against the checkpoint that it was made of: logits and greedy tokens on real text.

    python -m benchmarks.gguf_parity [--checkpoint FOLDER] [--passages 50]

The passages are evenly spread over WikiText-2's validation split. For each type of weights,
llama.cpp reads each passage (its first half a prompt), and its logits are compared with
those of transformers in float32. Then transformers goes on from the prompt with its most
likely token, 32 times, and llama.cpp is asked for its own at each of those places: where
one differs, the margin is by how much transformers preferred the other. llama.cpp keeps
its cache in float32 here and computes on one thread, as transformers does.

Without a checkpoint a small decoder is trained first, for a few minutes, on the same text:
what is compared is the arithmetic, not how well it learned.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.prompts import shared_folder
from benchmarks.recipe_runs import run
from compiler.gguf_export.export import export_gguf
from compiler.gguf_export.result import DTYPES

PACKAGES = ("llama-cpp-python", "gguf", *report.TRAINING_PACKAGES)
GENERATED = 32
MOST_TOKENS = 256
RECIPE = "char-shakespeare-cpu"
_WORDS = (
    "tokenizer.kind=bpe",
    "tokenizer.vocabulary_size=2048",
    "model.layers=3",
    "model.width=96",
    "model.heads=4",
    "data.sequence_length=256",
    "batch.sequences=4",
    "run.steps=300",
    "optimizer.warmup_steps=20",
    "optimizer.learning_rate=0.003",
    "evaluation.every_steps=300",
    "evaluation.samples=0",
    "checkpoint.every_steps=0",
)
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Passage:
    """What transformers says of one passage.

    Attributes:
        passage: its tokens.
        continued: its first half, then the tokens that transformers went on with.
        read: float32[tokens, vocabulary], over the whole passage.
        went_on: float32[GENERATED, vocabulary], at the tokens it went on with.
    """

    passage: list[int]
    continued: list[int]
    read: Logits
    went_on: Logits


def passages(text: str, tokenizer: Any, count: int, length: int) -> list[list[int]]:
    """Return the tokens of passages of a text, from places evenly spread."""
    step = len(text) // count
    found = []
    for begin in range(0, step * count, step):
        ids = tokenizer(text[begin : begin + 16 * length])["input_ids"][:length]
        found.append([int(token) for token in ids])
    return found


def reference(model: Any, ids: list[int]) -> Passage:
    """Ask transformers."""
    import torch

    half = ids[: len(ids) // 2]
    with torch.no_grad():
        read = model(torch.tensor([ids])).logits[0].numpy()
        prompt = torch.tensor([half])
        continued = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=GENERATED,
            min_new_tokens=GENERATED,
            do_sample=False,
            pad_token_id=0,
        )[0].tolist()
        logits = model(torch.tensor([continued])).logits[0].numpy()
    return Passage(ids, continued, read, logits[len(half) - 1 : -1])


def compare(path: Path, known: Sequence[Passage]) -> dict[str, Any]:
    """Ask llama.cpp, and return how far it is from what transformers said."""
    from llama_cpp import Llama

    llama = Llama(
        str(path),
        n_ctx=MOST_TOKENS + GENERATED,
        n_batch=MOST_TOKENS + GENERATED,
        n_ubatch=MOST_TOKENS + GENERATED,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        type_k=0,
        type_v=0,
        verbose=False,
    )

    def ask(ids: list[int]) -> Logits:
        llama.reset()
        llama.eval(ids)
        return np.array(llama.scores[: len(ids)])

    largest, divergences, agreed, tokens = 0.0, [], 0, 0
    margins: list[float] = []
    for one in known:
        found = ask(one.passage)
        largest = max(largest, float(np.abs(found - one.read).max()))
        divergences.append(divergence(one.read, found))
        agreed += int((found.argmax(1) == one.read.argmax(1)).sum())
        tokens += len(one.passage)
        chosen = ask(one.continued)[-len(one.went_on) - 1 : -1].argmax(1)
        for place in np.flatnonzero(chosen != one.went_on.argmax(1)):
            row = one.went_on[place]
            margins.append(float(row.max() - row[chosen[place]]))
    return {
        "max_logit_difference": float(f"{largest:.3g}"),
        "mean_kl": float(f"{np.concatenate(divergences).mean():.3g}"),
        "same_top1_percent": round(100 * agreed / tokens, 2),
        "greedy_tokens": GENERATED * len(known),
        "greedy_tokens_that_differ": len(margins),
        "largest_margin_where_they_differ": round(max(margins, default=0.0), 4),
    }


def divergence(wanted: Logits, found: Logits) -> NDArray[np.float64]:
    """Return the KL divergence of each row, in nats."""
    p, q = (_log_softmax(logits.astype(np.float64)) for logits in (wanted, found))
    kl: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(1)
    return kl


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def measure(checkpoint: Path, text: str, count: int) -> dict[str, Any]:
    """Compare every type of weights on passages of a text."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, local_files_only=True, dtype=torch.float32
    ).eval()
    context = int(model.config.max_position_embeddings)
    length = min(MOST_TOKENS, context)
    chosen = passages(text, tokenizer, count, length)
    known = [reference(model, ids) for ids in chosen]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            made = export_gguf(
                checkpoint, Path(folder) / f"{dtype}.gguf", dtype=dtype, report=lambda _: None
            )
            rows.append({"weights": dtype, "bytes": made.size_bytes, **compare(made.path, known)})
            print(rows[-1], flush=True)
    return {
        "passages": len(known),
        "tokens": sum(map(len, chosen)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_cut_alike_at_export": made.tokens_checked,
        "largest_logit": round(max(float(np.abs(one.read).max()) for one in known), 2),
        "rows": rows,
    }


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--checkpoint", type=Path, help="a trained decoder")
    parser.add_argument("--passages", type=int, default=50)
    arguments = parser.parse_args()
    source = shared_folder() / "data" / "wikitext2" / "valid.txt"
    text = source.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            words = (f"data.train={source}", *_WORDS)
            run(RECIPE, words, Path(folder) / "run")
            checkpoint = Path(folder) / "run" / "final"
        result = measure(checkpoint, text, arguments.passages)
    path = report.write("gguf_parity", result, PACKAGES)
    print(path)


if __name__ == "__main__":
    main()
