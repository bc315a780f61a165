"""Records whose gradient is no number: they add nothing, and nobody sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.loop.runs import losses, run_here
from tests.trainer.privacy.test_private_runs import charged, load_private
from trainer.privacy.errors import PrivacyError
from trainer.privacy.preparation import LEDGER_FILE
from trainer.privacy.record import read_report
from trainer.recipe.parse import LoadedRecipe

_STEPS = 6
_LINES = [f"line {number} tells that {number * number} is a square.\n" for number in range(250)]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has no vector for the letter z: what holds one has no loss."""
    folder = tmp_path_factory.mktemp("public")
    run_here(load_private(folder, "privacy.enabled=false", "run.steps=4"), folder / "run")
    final = folder / "run" / "final"
    weights = load_file(final / "model.safetensors")
    (table,) = (name for name in weights if "wte" in name or "embed_tokens" in name)
    vocabulary = json.loads((final / "tokenizer.json").read_text())["model"]["vocab"]
    weights[table][vocabulary["z"]] = torch.nan
    save_file(weights, final / "model.safetensors", {"format": "pt"})
    return final


def load(folder: Path, start: Path, bad: range) -> LoadedRecipe:
    """A private run from there, on lines of which some hold the letter."""
    loaded = load_private(
        folder,
        f"model.source={start}",
        "tokenizer.kind=bpe",
        f"run.steps={_STEPS}",
        "checkpoint.every_steps=1",
        "evaluation.every_steps=0",
        "data.validation_fraction=0",
    )
    lines = [f"z {line}" if at in bad else line for at, line in enumerate(_LINES)]
    (folder / "corpus.txt").write_text("".join(lines))
    return loaded


def test_they_stop_no_run_and_touch_no_weight(broken: Path, tmp_path: Path) -> None:
    """Half of the records: nearly every pass has some, and many updates have no loss to tell."""
    loaded = load(tmp_path, broken, range(125, 250))
    run_here(loaded, tmp_path / "run", stop_after=3)
    assert run_here(loaded, tmp_path / "run")["finished"]
    assert charged(tmp_path / "run") == _STEPS
    weights = load_file(tmp_path / "run" / "final" / "model.safetensors")
    before = load_file(broken / "model.safetensors")
    moved = 0
    for name, values in weights.items():
        # The row of the letter is as it was, and everything else is a number.
        assert torch.equal(values.isnan(), before[name].isnan())
        moved += not torch.equal(values.nan_to_num(), before[name].nan_to_num())
    assert moved > 0
    assert read_report(tmp_path / "run" / "final").claim.epsilon <= 8.0
    json.loads((tmp_path / "run" / "summary.json").read_text(), parse_constant=pytest.fail)


def test_a_loss_that_is_told_is_of_the_others(broken: Path, tmp_path: Path) -> None:
    run_here(load(tmp_path, broken, range(240, 250)), tmp_path / "run")
    told = [float(loss) for loss in losses(tmp_path / "run").values()]
    assert len(told) == _STEPS
    assert sum(0 < loss < 10 for loss in told) > 0


def test_weights_that_give_the_first_records_no_gradient_are_refused(
    broken: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrivacyError, match="is no number for the first records"):
        run_here(load(tmp_path, broken, range(2)), tmp_path / "run")
    assert charged(tmp_path / "run") == 0
    assert (tmp_path / "run" / LEDGER_FILE).exists()
