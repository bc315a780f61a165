"""Small corpora and recipes that train in seconds, and commands typed for real."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from casemate.cli.main import cli

_NOUNS = ("keeper", "lighthouse", "harbour", "lamp", "boat", "storm", "island", "sailor")
_VERBS = ("sees", "lights", "leaves", "finds", "paints", "guards")
_GOOD = ("lovely", "bright", "warm", "splendid")
_BAD = ("dreadful", "dull", "cold", "broken")


def typed(*words: str | Path) -> Result:
    """Type a command; errors come back in the result."""
    return CliRunner().invoke(cli, [str(word) for word in words])


def answer(result: Result) -> dict[str, Any]:
    """The JSON document on stdout of a command that went well."""
    assert result.exception is None, (result.output, result.exception)
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def write_text(path: Path, sentences: int = 400, seed: int = 1) -> Path:
    """A corpus in which much can be predicted."""
    draw = random.Random(seed)
    lines = [
        f"the {draw.choice(_NOUNS)} {draw.choice(_VERBS)} the {draw.choice(_NOUNS)}."
        for _ in range(sentences)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_reviews(path: Path, count: int, seed: int = 1) -> Path:
    """Texts whose label one word gives away, with a heading line."""
    draw = random.Random(seed)
    rows = ["text\tlabel"]
    for number in range(count):
        good = number % 2 == 0
        word = draw.choice(_GOOD if good else _BAD)
        nouns = draw.choice(_NOUNS), draw.choice(_NOUNS)
        rows.append(f"the {nouns[0]} is {word} {draw.choice(_VERBS)} {nouns[1]}\t{int(good)}")
    path.write_text("\n".join(rows) + "\n")
    return path


def small_decoder(corpus: Path, *more: str) -> Sequence[str]:
    """The words of a decoder that trains in a second or two."""
    return (
        "char-shakespeare-cpu",
        f"data.train={corpus}",
        "model.layers=1",
        "model.width=32",
        "model.heads=2",
        "data.sequence_length=32",
        "batch.sequences=8",
        "run.steps=24",
        "run.device=cpu",
        "optimizer.warmup_steps=2",
        "optimizer.learning_rate=0.01",
        "evaluation.every_steps=12",
        "evaluation.samples=1",
        "evaluation.sample_tokens=12",
        "checkpoint.every_steps=8",
        "report.tensorboard=false",
        *more,
    )
