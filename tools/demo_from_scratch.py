"""The whole way from text to an answer, with models trained here in about a minute.

    python -m tools.demo_from_scratch build/demo-from-scratch

train -> compile -> sign -> install -> serve, for a small decoder over characters (it learns
this repository's documentation) and an encoder that tells prose from code; then one call of
each over mutual TLS. Needs no model and no data but the repository. Every step prints what
happened and how long it took; the first that does not do what it should ends the demo with
exit code 1. `report.json` in the folder has it all.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.site import Site, casemate, casemate_json
from casemate import Client
from tools.steps import Demo, expect

ROOT = Path(__file__).resolve().parent.parent
STORIES, KINDS = "stories", "prose-or-code"
PROMPT = "The appliance "
PROSE = "A bundle is a directory that holds one version of one model."
CODE = "for name in sorted(names): result[name] = read(path / name)"
_LINE_CHARS = 160
_SHORTEST_LINE = 30

# Small enough to be trained in seconds; everything else is as the trainer's defaults.
RECIPE = """
[run]
steps = 200
[model]
family = "encoder"
layers = 2
width = 64
heads = 2
inner_width = 128
[tokenizer]
kind = "wordpiece"
vocabulary_size = 2000
[data]
train = ["train.tsv"]
validation = ["dev.tsv"]
sequence_length = 48
[objective]
kind = "classification"
[batch]
sequences = 32
[optimizer]
learning_rate = 1e-3
warmup_steps = 20
"""
DECODER = (
    "run.steps=600",
    "data.sequence_length=128",
    "optimizer.warmup_steps=50",
    "evaluation.every_steps=600",
    "evaluation.sequences=50",
    "checkpoint.every_steps=600",
)


def labelled_lines() -> list[tuple[str, str]]:
    """Return lines of the documentation and of the source, with what they are."""
    found = []
    for folder, suffix, label in (("docs", "*.md", "prose"), ("compiler", "*.py", "code")):
        for path in sorted((ROOT / folder).rglob(suffix)):
            for line in path.read_text().splitlines():
                text = " ".join(line.split())[:_LINE_CHARS]
                if len(text) >= _SHORTEST_LINE and _is_clear(text, label):
                    found.append((text, label))
    random.Random(1).shuffle(found)
    return found


def _is_clear(text: str, label: str) -> bool:
    if label == "code":
        return not text.startswith(('"', "#")) and any(mark in text for mark in "=()[]")
    return not text.startswith(("|", "#", "-", "`", "{", '"')) and "`" not in text


class Chain:
    """The steps, in order."""

    def __init__(self, demo: Demo, folder: Path) -> None:
        self.say = demo.say
        self.folder = folder
        self.runs = folder / "runs"
        self.bundles = folder / "bundles"
        for old in (self.runs, self.bundles, folder / "data"):
            shutil.rmtree(old, ignore_errors=True)
        self.bundles.mkdir(parents=True)

    def train(self) -> dict[str, Any]:
        """A decoder and a classifier, from nothing."""
        data = self.folder / "data"
        data.mkdir(parents=True)
        rows = labelled_lines()
        cut = len(rows) // 10
        for name, part in (("dev.tsv", rows[:cut]), ("train.tsv", rows[cut:])):
            lines = "".join(f"{text}\t{label}\n" for text, label in part)
            (data / name).write_text(f"text\tlabel\n{lines}")
        (data / "lines.toml").write_text(RECIPE)
        documents = f"data.train={ROOT / 'docs'}"
        output = str(self.runs / "decoder")
        result = casemate_json("train", "char-shakespeare-cpu", documents, *DECODER, "-o", output)
        self.say(f"decoder: {_loss(result)}")
        output = str(self.runs / "classifier")
        result = casemate_json("train", str(data / "lines.toml"), "-o", output)
        self.say(f"classifier: {_loss(result)}")
        return {"examples": len(rows)}

    def compile(self) -> dict[str, Any]:
        """A bundle of each, quantized, with probes recorded."""
        made = {}
        for name, run in ((STORIES, "decoder"), (KINDS, "classifier")):
            made[name] = casemate_json(
                *("compile", str(self.runs / run / "final"), "--no-tune"),
                *("--name", name, "-o", str(self.bundles / name)),
            )
            (variant,) = made[name]["variants"]
            self.say(f"{name}: {variant['format']}, {made[name]['size_bytes'] / 1e6:.2f} MB")
            expect(bool(made[name]["probes_recorded"]), "no probes were recorded")
        attestations = made[STORIES]["attestations"]
        expect("attestations/training.json" in attestations, "the training record is missing")
        self.say(f"each carries {', '.join(Path(name).stem for name in attestations)}")
        return {"compiled": made}

    def sign(self) -> dict[str, Any]:
        """Both signatures, with keys of a trust domain made here."""
        self.site = Site(self.folder / "site")
        for name in (STORIES, KINDS):
            casemate("sign", str(self.bundles / name), "--keys", str(self.site.folder / "signing"))
        self.say("OpenSSF Model Signing v1.0 (ECDSA P-256) and ML-DSA-65")
        return {}

    def install(self) -> dict[str, Any]:
        """Verified, and stored."""
        for name in (STORIES, KINDS):
            self.site.install(self.bundles / name)
        return {}

    def serve(self) -> dict[str, Any]:
        """The appliance, ready."""
        self.tablet = self.site.identity("tablet")
        seconds = self.site.start()
        self.say(f"ready on {self.site.target} after {seconds:.1f} s")
        return {"ready_seconds": round(seconds, 2)}

    def ask(self) -> dict[str, Any]:
        """One call of each, over mutual TLS."""
        with Client.from_identity(self.tablet) as client:
            stream = client.generate(STORIES, PROMPT, max_tokens=60)
            text = "".join(piece.text for piece in stream)
            self.say(f"generate: {PROMPT}{' '.join(text.split())}")
            expect(bool(text.strip()), "the model generated nothing")
            answers = client.classify(KINDS, [PROSE, CODE]).labels
            labels = [ranked[0].label for ranked in answers]
            for sentence, label in zip((PROSE, CODE), labels, strict=True):
                self.say(f"classify: {label:5}  {sentence}")
            expect(labels == ["prose", "code"], "the classifier is wrong")
            chosen = client.describe(STORIES).model.versions[0].variant
        self.say(f"the appliance runs the variant {chosen!r} of {STORIES}")
        return {"tokens": stream.completion.usage.completion_tokens, "variant": chosen}


def _loss(result: dict[str, Any]) -> str:
    metrics = result.get("metrics", result)
    return ", ".join(
        f"{name.replace('_', ' ')} {metrics[name]:.3f}"
        for name in ("validation_loss", "accuracy")
        if isinstance(metrics.get(name), int | float)
    )


def run(folder: Path) -> bool:
    """Walk all steps; return whether every one did what it should."""
    demo = Demo(folder)
    chain = Chain(demo, folder)
    return demo.walk(
        "Casemate from scratch: text -> train -> compile -> sign -> install -> serve -> answer.",
        (
            ("Train a decoder and a classifier", chain.train),
            ("Compile a bundle of each", chain.compile),
            ("Sign them", chain.sign),
            ("Install them", chain.install),
            ("Serve them", chain.serve),
            ("Ask each", chain.ask),
        ),
        lambda: chain.site.stop() if hasattr(chain, "site") else None,
    )


def main() -> None:
    """Command line: one argument, the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    sys.exit(0 if run(parser.parse_args().folder.absolute()) else 1)


if __name__ == "__main__":
    main()
