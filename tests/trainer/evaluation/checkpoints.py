"""Tiny checkpoints of every task, with a tokenizer and files to measure them on."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.checkpointing.export import export_checkpoint
from trainer.checkpointing.origin import record_of_run
from trainer.data.tokenization import Tokenizer
from trainer.data.tokenizer_training import train_tokenizer
from trainer.models.build import build_network
from trainer.models.network import Network
from trainer.recipe.schema import (
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    Recipe,
    TokenizerOptions,
)

WORDS = (
    *("amber", "birch", "cedar", "delta", "ember", "fjord", "grove"),
    *("heath", "islet", "jetty", "knoll", "larch", "maple", "north"),
)
LABELS = ("bad", "good")
TAGS = ("B-TREE", "I-TREE", "O")
CONTEXT = 16

# task: family, objective, tokenizer
TASKS = {
    "decoder": ("decoder", "next-token", "word"),
    "recurrent": ("recurrent", "next-token", "word"),
    "masked": ("encoder", "masked", "wordpiece"),
    "classifier": ("encoder", "classification", "wordpiece"),
    "convolution": ("convolution", "classification", "word"),
    "tagger": ("encoder", "tagging", "wordpiece"),
    "embedding": ("encoder", "contrastive", "wordpiece"),
    "seq2seq": ("seq2seq", "sequence-to-sequence", "word"),
    "infilling": ("seq2seq", "infilling", "word"),
}


@dataclass(frozen=True)
class Made:
    """A network, its tokenizer and the recipe that would make it."""

    network: Network
    tokenizer: Tokenizer
    recipe: Recipe

    def save(self, folder: Path) -> Path:
        """Write a plain model directory, without training.json."""
        folder.mkdir()
        self.network.save(folder)
        self.tokenizer.save(folder)
        return folder

    def export(self, folder: Path) -> Path:
        """Write a checkpoint as a run does."""
        record = record_of_run(
            self.recipe,
            name="tiny",
            sources=[],
            data_fingerprint="ab" * 32,
            steps=1,
            metrics={},
            device=torch.device("cpu"),
        )
        return export_checkpoint(folder, self.network, None, self.tokenizer, record)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Return sentences of two to twelve words, the same for a seed."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 12))) for _ in range(count)]


def make(task: str, **model: Any) -> Made:
    """Return a tiny network with new weights."""
    family, objective, kind = TASKS[task]
    # Fourteen words beside the special tokens; an encoder-decoder has a hundred sentinels.
    special = {"seq2seq": 103, "convolution": 5}.get(family, 2)
    size = special + len(WORDS) if kind == "word" else 50
    options = TokenizerOptions(kind=kind, vocabulary_size=size, minimum_count=1)
    tokenizer = train_tokenizer(options, sentences(40), family).tokenizer
    recipe = Recipe(
        model=ModelOptions(
            **{"family": family, "layers": 1, "width": 16, "heads": 2, "filters": 4, **model}
        ),
        tokenizer=options,
        data=DataOptions(sequence_length=CONTEXT, pair_field=_pair_field(objective)),
        objective=ObjectiveOptions(kind=objective),
    )
    torch.manual_seed(3)
    network = build_network(
        recipe.model,
        recipe.objective,
        vocabulary_size=tokenizer.vocabulary_size,
        context=CONTEXT,
        special=tokenizer.special,
        labels={"classification": LABELS, "tagging": TAGS}.get(objective, ()),
    )
    if family != "seq2seq":
        with torch.no_grad():
            # New weights are so small that all guesses are alike.
            for parameter in network.parameters():
                parameter.mul_(4)
    return Made(network, tokenizer, recipe)


def _pair_field(objective: str) -> str:
    return "pair" if objective in ("contrastive", "sequence-to-sequence") else ""


def write_data(task: str, folder: Path, examples: int = 30) -> Path:
    """Write a file that a task is measured on."""
    draw = random.Random(5)
    texts = sentences(examples, seed=1)
    if TASKS[task][1] in ("next-token", "masked", "infilling"):
        path = folder / "text.txt"
        path.write_text("\n".join(texts) + "\n")
        return path
    path = folder / "examples.jsonl"
    rows = []
    for text in texts:
        label: Any = draw.choice(LABELS)
        if task == "tagger":
            label = [draw.choice(TAGS) for _ in text.split()]
        rows.append({"text": text, "label": label, "pair": " ".join(reversed(text.split()))})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
