"""What a private run is said to cost: memory against a process's peak, time against passes."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.models.networks import KINDS
from tests.trainer.privacy.draw_many import make_plan
from tests.trainer.privacy.naive import make_step
from trainer.models.memory import estimate_memory
from trainer.privacy.clipping import Clipping
from trainer.privacy.cost import meaningless_batch, time_pass, timing
from trainer.privacy.gradients import PerExampleGradients
from trainer.recipe.schema import (
    BatchOptions,
    DataOptions,
    DistributionOptions,
    ModelOptions,
    ObjectiveOptions,
    PartsOptions,
    PrivacyOptions,
    Recipe,
)

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
RECIPE = Recipe(
    model=ModelOptions(family="encoder", layers=4, width=256, heads=4),
    objective=ObjectiveOptions(kind="classification"),
    data=DataOptions(sequence_length=64, labels=("a", "b")),
    batch=BatchOptions(sequences=128, micro_sequences=32),
    privacy=PrivacyOptions(enabled=True),
)


@pytest.mark.parametrize(
    "words", ["encoder none 32 64", "encoder lora 32 64", "decoder none 8 128"]
)
def test_the_memory_is_within_a_half_of_what_a_process_takes(words: str) -> None:
    command = [sys.executable, "-m", "tests.trainer.privacy.private_peak", *words.split()]
    child = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert child.returncode == 0, child.stderr
    measured, estimated = json.loads(child.stdout)
    assert measured / 1.5 < estimated < measured * 1.5


def test_what_private_memory_follows() -> None:
    def other(**sections: object) -> int:
        return estimate_memory(replace(RECIPE, **sections), 4096).examples  # type: ignore[arg-type]

    whole = other()
    # Adapters: next to nothing. Half the records of a pass: half the memory.
    assert other(parts=PartsOptions(adapter="lora")) < whole / 3
    assert other(parts=PartsOptions(adapter="bitfit")) < other(parts=PartsOptions(adapter="lora"))
    # A batch is as large as it likes: what counts is a pass.
    assert other(batch=BatchOptions(sequences=4096, micro_sequences=32)) == whole
    halved = other(batch=BatchOptions(sequences=128, micro_sequences=16))
    assert 0.4 * whole < halved < 0.6 * whole
    assert other(privacy=PrivacyOptions()) == 0


def test_sums_are_whole_on_every_rank() -> None:
    sharded = replace(RECIPE, distribution=DistributionOptions(strategy="fsdp"))
    found = estimate_memory(sharded, 4096, world=4)
    assert found.gradients == estimate_memory(RECIPE, 4096).gradients
    assert found.optimizer == estimate_memory(RECIPE, 4096).optimizer // 4


@pytest.mark.parametrize("kind", ["encoder-classifier", "decoder-untied", "seq2seq-untied", "lstm"])
def test_a_pass_is_timed_and_leaves_nothing(kind: str) -> None:
    step = make_step(kind)
    gradients = PerExampleGradients(step, step.network, Clipping("flat", 0.1))
    batch = meaningless_batch(step.network, KINDS[kind][1], 3, 8, CPU)
    state = torch.get_rng_state()
    seconds = time_pass(gradients, batch, CPU, nullcontext)
    assert 0 < seconds < 60
    assert torch.equal(state, torch.get_rng_state())
    assert all(not values.any() for values in gradients.take().values())


def test_a_run_is_its_passes_and_its_noise() -> None:
    plan = replace(make_plan(units=1000, expected=100), steps=20)
    found = timing(plan, basis="measured", rows=10, pass_seconds=0.5, trained=1000)
    assert found.update_seconds == pytest.approx(5.0 + found.noise_seconds)
    assert found.seconds == pytest.approx(20 * found.update_seconds)
    assert found.noise_seconds < 1
    shared = timing(plan, basis="measured", rows=10, pass_seconds=0.5, trained=1000, world=2)
    assert shared.update_seconds == pytest.approx(2.5, abs=1)
