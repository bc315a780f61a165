"""Planted secrets: what a decoder repeats of the records it was finetuned on, and with privacy.

    python -m benchmarks.secrets [--work FOLDER] [--tiny --output FOLDER]

A small decoder learns from public text (WikiText-2's validation file), then three times from
the same private records (SST-2's sentences, with door codes of invented people among them):

    public       the decoder before it saw a private record
    ordinary     casemate finetune
    record       casemate finetune --private, epsilon 3, unit record
    user         the same with unit user: all copies of a secret belong to one user, of whom
                 one record is used

Each is asked for every secret: does it complete the sentence greedily, and how many bits does
it tell of the code (exposure, exact over all 100,000 codes)? Utility is the loss on SST-2's
dev sentences, which hold no secret and choose nothing. The ordinary run takes as many passes
over the data as the private ones. The private runs also plant random canaries, so that
`casemate privacy audit --record` puts exposure and a lower bound into their privacy.json;
then `casemate privacy synthesize` writes texts from the record run, which are searched for
the codes.

Writes benchmarks/results/secrets.json and docs/pictures/secrets.svg. With --tiny everything is
small, means nothing, takes seconds, and is written into FOLDER. Runs that are finished in the
folder of --work are not made again, so that a benchmark that was cut goes on there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import report, secrets_data
from benchmarks.prompts import shared_folder
from benchmarks.secrets_attack import Found, attack
from benchmarks.secrets_data import COPIES, DIGITS, Secret
from benchmarks.secrets_picture import draw_picture
from casemate.cli.main import cli

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "secrets.svg"
EPSILON = 3.0
_PACKAGES = (*report.TRAINING_PACKAGES, "opacus", "dp-accounting")


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is.

    Attributes:
        each: secrets for every number of copies.
        sentences: private sentences; 0 takes all.
        characters: of public text; 0 takes all.
        vocabulary: of the tokenizer.
        layers, width: of the decoder.
        public_steps: updates of 12 windows of 64 tokens.
        ordinary_steps: updates of 32 windows of 48 tokens.
        private_steps: updates of `batch` records.
        batch: expected records of a private update.
        canaries: of the private runs.
        texts: that are sampled.
        runs: to make from the public decoder.
    """

    each: int
    sentences: int
    characters: int
    vocabulary: int
    layers: int
    width: int
    public_steps: int
    ordinary_steps: int
    private_steps: int
    batch: int
    canaries: int
    texts: int
    runs: tuple[str, ...] = ("ordinary", "record", "user")


FULL = Scale(6, 0, 0, 2048, 4, 128, 1200, 930, 80, 512, 200, 256)
TINY = Scale(1, 300, 60_000, 300, 1, 16, 4, 4, 3, 32, 20, 4, ("ordinary", "record"))


class Laboratory:
    """The data, and the runs on it, in one folder."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder = folder
        self.scale = scale
        self.reused: list[str] = []
        self.secrets: tuple[Secret, ...] = secrets_data.make_secrets(scale.each)
        data = (shared_folder() / "data").resolve()
        text = secrets_data.write_public(
            data / "wikitext2" / "valid.txt", folder / "public.txt", scale.characters
        )
        self.tokenizer = secrets_data.train_public_tokenizer(
            text, folder / "tokenizer", scale.vocabulary
        )
        self.records = secrets_data.write_records(
            data / "sst2" / "train.tsv", self.secrets, folder / "records.jsonl", scale.sentences
        )
        secrets_data.write_sentences(
            data / "sst2" / "dev.tsv", folder / "dev.jsonl", scale.sentences
        )

    def checkpoint(self, name: str, public: Path) -> Path:
        """Return the checkpoint of a run, which is made if it is not there."""
        if name == "public":
            return public
        return self.ordinary(public) if name == "ordinary" else self.private(public, name)

    def pretrain(self) -> Path:
        """Train the public decoder."""
        scale = self.scale
        return self._run(
            "public",
            "train",
            "model.family=decoder",
            f"model.layers={scale.layers}",
            f"model.width={scale.width}",
            "model.tie_embeddings=false",
            "tokenizer.kind=file",
            f"tokenizer.file={self.tokenizer}",
            f"data.train={self.folder / 'public.txt'}",
            "data.validation_fraction=0.05",
            "data.sequence_length=64",
            f"run.steps={scale.public_steps}",
            "batch.sequences=12",
            "optimizer.learning_rate=2e-3",
            f"optimizer.warmup_steps={min(100, scale.public_steps)}",
        )

    def ordinary(self, public: Path) -> Path:
        """Finetune without privacy."""
        return self._finetune(
            "ordinary",
            public,
            f"run.steps={self.scale.ordinary_steps}",
            "batch.sequences=32",
            "optimizer.learning_rate=1e-3",
        )

    def private(self, public: Path, unit: str) -> Path:
        """Finetune with privacy, and attack the canaries of the run."""
        scale = self.scale
        user = ("privacy.unit=user", "privacy.user_field=user", "privacy.contributions=1")
        final = self._finetune(
            unit,
            public,
            "--private",
            f"privacy.epsilon={EPSILON}",
            f"privacy.canaries={scale.canaries}",
            *(user if unit == "user" else ()),
            f"run.steps={scale.private_steps}",
            f"batch.sequences={scale.batch}",
            "batch.micro_sequences=32",
            "optimizer.learning_rate=3e-3",
            "optimizer.beta2=0.999",
        )
        if "audit" not in evidence(final):
            casemate("privacy", "audit", final.parent, "--record", "--device", "cpu")
        return final

    def _finetune(self, name: str, public: Path, *words: str) -> Path:
        return self._run(
            name,
            "finetune",
            "model.family=decoder",
            f"model.source={public}",
            f"data.train={self.folder / 'records.jsonl'}",
            f"data.validation={self.folder / 'dev.jsonl'}",
            "data.sequence_length=48",
            "objective.softmax=full",
            "optimizer.weight_decay=0",
            "optimizer.warmup_steps=3",
            *words,
        )

    def _run(self, name: str, command: str, *words: str) -> Path:
        final = self.folder / name / "final"
        # The last file that a run writes there.
        if (final / ("privacy.json" if "--private" in words else "training.json")).exists():
            self.reused.append(name)
            return final
        recipe = self.folder / f"{name}.toml"
        recipe.write_text("", encoding="utf-8")
        common = (
            "run.device=cpu",
            "evaluation.every_steps=0",
            "evaluation.samples=0",
            "checkpoint.every_steps=0",
            "checkpoint.keep_best=false",
            "report.html=false",
            "report.tensorboard=false",
        )
        casemate(command, recipe, *common, *words, "-o", self.folder / name)
        return final

    def seconds(self, name: str) -> float:
        """Return how long the updates of a run took."""
        summary = json.loads((self.folder / name / "summary.json").read_text(encoding="utf-8"))
        return round(float(summary["seconds"]), 1)

    def utility(self, checkpoint: Path) -> dict[str, float]:
        """Measure a checkpoint on sentences that nobody learned from."""
        found = casemate(
            *("evaluate", checkpoint, self.folder / "dev.jsonl"),
            *("data.sequence_length=48", "--device", "cpu"),
        )
        return {
            "loss": round(found["loss"], 4),
            "bits_per_byte": round(found["metrics"]["bits_per_byte"], 4),
        }

    def sampled(self, checkpoint: Path) -> dict[str, Any]:
        """Sample with the claim of a checkpoint, and look for codes in what is written."""
        output = self.folder / "texts.jsonl"
        casemate(
            *("privacy", "synthesize", checkpoint, "--count", self.scale.texts),
            *("--batch", 64, "--seed", 1, "--device", "cpu", "-o", output),
        )
        checked = casemate("privacy", "check", output, "--model", checkpoint)
        text = output.read_text(encoding="utf-8")
        return {
            "texts": checked["texts"],
            "epsilon": round(checked["epsilon"], 3),
            "secrets_in_them": sum(secret.code in text for secret in self.secrets if secret.copies),
        }


def casemate(*words: object) -> dict[str, Any]:
    """Run a command of casemate in this process; return what it prints with --json."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.main([str(word) for word in (*words, "--json")], standalone_mode=False)
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


def by_copies(found: list[Found]) -> list[dict[str, Any]]:
    """Return the figures of the secrets for every number of copies."""
    rows = []
    for copies in COPIES:
        those = [one for one in found if one.copies == copies]
        bits = [round(one.exposure, 2) for one in those]
        rows.append(
            {
                "copies": copies,
                "secrets": len(those),
                "completed": sum(one.completed for one in those),
                "mean_exposure_bits": round(sum(bits) / len(bits), 2),
                "exposure_bits": bits,
                "completed_each": [one.completed for one in those],
            }
        )
    return rows


def evidence(checkpoint: Path) -> dict[str, Any]:
    """Return claim and evidence of a private run, as its privacy.json has them."""
    document = json.loads((checkpoint / "privacy.json").read_text(encoding="utf-8"))
    claim, mechanism, found = document["claim"], document["mechanism"], document["evidence"]
    facts = {
        "epsilon": round(claim["epsilon"], 4),
        "delta": claim["delta"],
        "unit": claim["unit"],
        "units": mechanism["units"],
        "noise_multiplier": round(mechanism["noise_multiplier"], 4),
        "noise_to_batch_ratio": round(mechanism["noise_to_batch_ratio"], 5),
    }
    if found["audit"] is not None:
        facts["audit"] = {
            "lower_bound": round(found["audit"]["lower_bound"], 3),
            "canaries": found["audit"]["canaries"],
            "exposure_mean_bits": round(found["exposure"]["mean_bits"], 2),
            "exposure_max_bits": round(found["exposure"]["max_bits"], 2),
            "membership_auc": round(found["canary_membership"]["auc"], 3),
        }
    return facts


def measure(folder: Path, scale: Scale) -> dict[str, Any]:
    """Make all runs and attack each."""
    began, used = time.perf_counter(), time.process_time()
    laboratory = Laboratory(folder, scale)
    public = laboratory.pretrain()
    rows: list[dict[str, Any]] = []
    for name in ("public", *scale.runs):
        checkpoint = laboratory.checkpoint(name, public)
        row: dict[str, Any] = {"run": name, "seconds_of_updates": laboratory.seconds(name)}
        row |= laboratory.utility(checkpoint)
        row["secrets"] = by_copies(attack(checkpoint, laboratory.secrets))
        if (checkpoint / "privacy.json").exists():
            row["claim"] = evidence(checkpoint)
        rows.append(row)
        show(row)
    return {
        "public_data": "WikiText-2, validation file, lower case",
        "private_data": "SST-2: training sentences and planted door codes; measured on dev",
        "records": laboratory.records,
        "digits": DIGITS,
        "candidates": 10**DIGITS,
        "rows": rows,
        "samples_of_the_record_run": laboratory.sampled(folder / "record" / "final"),
        # Neither figure counts runs that were there.
        "runs_that_were_there": laboratory.reused,
        "minutes": round((time.perf_counter() - began) / 60, 1),
        "processor_minutes": round((time.process_time() - used) / 60, 1),
    }


def show(row: dict[str, Any]) -> None:
    """Print the figures of one run."""
    seconds = f"{row['seconds_of_updates']:.0f} s of updates"
    print(f"{row['run']:9} bits per byte {row['bits_per_byte']:.3f}  {seconds}")
    for one in row["secrets"]:
        print(
            f"    in {one['copies']:2} records: {one['completed']} of {one['secrets']} completed, "
            f"exposure {one['mean_exposure_bits']:.1f} bits",
            flush=True,
        )


def main() -> None:
    """Run the benchmark; write its result and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds; the figures mean nothing")
    parser.add_argument("--output", type=Path, help="with --tiny: folder for what is written")
    parser.add_argument("--work", type=Path, help="folder for the runs, which may hold some")
    options = parser.parse_args()
    if options.tiny != (options.output is not None):
        parser.error("--tiny and --output go together")
    torch.set_num_threads(1)
    load = [round(value, 2) for value in os.getloadavg()]
    with contextlib.ExitStack() as stack:
        work = options.work or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="casemate-secrets-"))
        )
        work = work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        (work / "texts.jsonl").unlink(missing_ok=True)
        (work / "texts.jsonl.claim.json").unlink(missing_ok=True)
        result = measure(work, TINY if options.tiny else FULL)
    result |= {"threads": 1, "load_average_before": load}
    if options.tiny:
        (options.output / "secrets.json").write_text(json.dumps(result), encoding="utf-8")
        (options.output / "secrets.svg").write_text(draw_picture(result), encoding="utf-8")
        return
    print("wrote", report.write("secrets", result, _PACKAGES))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw_picture(result), encoding="utf-8")
    print("wrote", PICTURE)


if __name__ == "__main__":
    main()
