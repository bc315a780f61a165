"""Two ranks, DDP or FSDP, do what one does; their checkpoints fit one another."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.distribution import ranks_agree, tiny
from tests.trainer.distribution.once import made_once
from trainer.checkpointing.checkpointer import Checkpointer
from trainer.checkpointing.tensors import optimizer_tensors
from trainer.distribution.environment import Ranks
from trainer.distribution.gradients import clip_factor, gradient_norm, scale_gradients
from trainer.distribution.group import connect
from trainer.distribution.launch import launch
from trainer.distribution.wrap import full_state
from trainer.recipe.schema import CheckpointOptions, Recipe

CASES = [ranks_agree.name_of(*case) for case in ranks_agree.CASES]
STEPS = ranks_agree.STEPS


class Outcome:
    """What one rank came to, and two ranks, who left their part in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = tiny.make_step()
        self.optimizers = tiny.make_optimizers(self.step)
        with connect(Ranks(), torch.device("cpu"), 15) as group:
            self.curve = tiny.train(self.step, self.optimizers, group, range(STEPS))
            self.saved = self.state()
            self.further = tiny.train(self.step, self.optimizers, group, range(STEPS, STEPS + 2))
        self.results: dict[str, Any] = json.loads((folder / "results.json").read_text())

    def state(self) -> dict[str, torch.Tensor]:
        weights = full_state(self.step.network)
        weights.pop("output.weight")
        moments, _ = optimizer_tensors(self.step, self.optimizers)
        return {name: value.clone() for name, value in {**weights, **moments}.items()}


def _make(folder: Path) -> None:
    """One rank saves; two ranks train, save, and go on from what the one has saved."""
    step = tiny.make_step()
    optimizers = tiny.make_optimizers(step)
    with connect(Ranks(), torch.device("cpu"), 15) as group:
        tiny.train(step, optimizers, group, range(STEPS))
        with Checkpointer(folder / "alone", CheckpointOptions(), group, Recipe()) as saver:
            saver.save(STEPS, step, optimizers, {"case": "alone"}, score=0.5)
    command = [sys.executable, "-m", "tests.trainer.distribution.ranks_agree", str(folder)]
    assert launch(command, 2) == 0


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return Outcome(made_once(tmp_path_factory, "ranks-agree", _make))


@pytest.mark.parametrize("case", CASES)
def test_losses_norms_and_weights_are_those_of_one_rank(outcome: Outcome, case: str) -> None:
    results = outcome.results[case]
    for (loss, norm), (expected_loss, expected_norm) in zip(
        results["curve"], outcome.curve, strict=True
    ):
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        assert norm == pytest.approx(expected_norm, abs=1e-5)
    # The limit was below the norms, or clipping was not tested.
    assert all(norm > 0.5 for _, norm in outcome.curve)
    state = load_file(outcome.folder / f"{case}-at-save.safetensors")
    for name, expected in outcome.saved.items():
        if "never_used" in name:
            continue
        torch.testing.assert_close(state[name], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_go_on_from_what_one_saved(outcome: Outcome, case: str) -> None:
    results = outcome.results[case]
    assert results["progress"] == {"case": "alone"}
    state = load_file(outcome.folder / f"{case}-restored.safetensors")
    assert state.keys() == outcome.saved.keys()
    for name, expected in outcome.saved.items():
        assert state[name].dtype == expected.dtype
        assert torch.equal(state[name], expected), name
    for (loss, _), (expected_loss, _) in zip(results["further"], outcome.further, strict=True):
        assert loss == pytest.approx(expected_loss, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_one_rank_goes_on_from_what_two_saved(outcome: Outcome, case: str) -> None:
    expected = load_file(outcome.folder / f"{case}-at-save.safetensors")
    step = tiny.make_step(seed=1)
    optimizers = tiny.make_optimizers(step)
    with (
        connect(Ranks(), torch.device("cpu"), 15) as group,
        Checkpointer(outcome.folder / case, CheckpointOptions(), group, Recipe()) as saver,
    ):
        latest = saver.latest()
        assert latest is not None
        assert (latest.step, latest.score) == (STEPS, 1.0)
        assert saver.restore(latest, step, optimizers) == {"case": case}
        moments, _ = optimizer_tensors(step, optimizers)
        restored = {**full_state(step.network), **moments}
        restored.pop("output.weight")
        assert restored.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(restored[name], value), name
        assert step.network.output.weight is step.network.table.weight
        further = tiny.train(step, optimizers, group, range(STEPS, STEPS + 2))
    for (loss, _), (expected_loss, _) in zip(further, outcome.further, strict=True):
        assert loss == pytest.approx(expected_loss, abs=1e-5)


def test_a_rank_that_cannot_write_fails_the_save_of_all(outcome: Outcome) -> None:
    message = outcome.results["failure"]
    assert "rank 1 could not write" in message
    assert "File too large" in message
    assert "there is no earlier one" in message


def test_the_norm_of_nothing_and_of_no_number() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    assert float(gradient_norm([weight])) == 0.0
    weight.grad = torch.tensor([1.0, math.nan, 2.0])
    assert math.isnan(float(gradient_norm([weight])))
    assert clip_factor(math.nan, 1.0) == clip_factor(math.inf, 1.0) == 1.0


def test_clipping_is_one_multiplication() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    scale_gradients([weight], 0.5)
    weight.grad = torch.tensor([3.0, 0.0, 4.0])
    norm = float(gradient_norm([weight]))
    assert norm == pytest.approx(5.0)
    assert clip_factor(norm, 0.0) == clip_factor(norm, 6.0) == 1.0
    scale_gradients([weight], clip_factor(norm, 1.0))
    assert float(weight.grad.norm()) == pytest.approx(1.0, abs=1e-5)
