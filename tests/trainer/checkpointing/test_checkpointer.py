"""Saving and restoring on one rank: what comes back, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
import pkgutil
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainer.distribution import tiny
from trainer.checkpointing.checkpointer import Checkpointer
from trainer.checkpointing.layout import SavedCheckpoint, superseded
from trainer.checkpointing.state_file import read_state
from trainer.checkpointing.storage import read_metadata
from trainer.distribution.environment import Ranks
from trainer.distribution.group import Group, connect
from trainer.errors import CheckpointError
from trainer.recipe.schema import CheckpointOptions, OptimizerOptions, Recipe, RunOptions


@pytest.fixture
def group() -> Iterator[Group]:
    with connect(Ranks(), torch.device("cpu"), 15) as group:
        yield group


def _saver(
    folder: Path, group: Group, recipe: Recipe | None = None, **options: Any
) -> Checkpointer:
    return Checkpointer(folder, CheckpointOptions(**options), group, recipe or Recipe())


def _trained(group: Group, steps: int = 2, *, two: bool = False) -> tuple[tiny.TinyStep, Any]:
    step = tiny.make_step()
    optimizers = tiny.make_optimizers(step, two=two)
    tiny.train(step, optimizers, group, range(steps))
    return step, optimizers


def _same(first: Any, second: Any) -> bool:
    """Compare nested state dicts bit by bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("two", (False, True))
@pytest.mark.parametrize("asynchronous", (False, True))
def test_everything_comes_back_bit_by_bit(
    tmp_path: Path, group: Group, two: bool, asynchronous: bool
) -> None:
    step, optimizers = _trained(group, two=two)
    progress = {
        "step": 2,
        "loss": 0.1,
        "none": None,
        "text": "ä",
        "nested": {"list": [1, 2.0, 1e16]},
    }
    with _saver(tmp_path, group, asynchronous=asynchronous) as saver:
        saver.save(2, step, optimizers, progress, score=1.25)
        weights = {name: value.clone() for name, value in step.state_dict().items()}
        states = [json_free(each.state_dict()) for each in optimizers]
        expected = tiny.train(step, optimizers, group, range(2, 4))
        saver.wait()
        latest = saver.latest()
        assert latest == SavedCheckpoint(2, tmp_path / "step-00000002", 1.25)
        fresh = tiny.make_step(seed=9)
        others = tiny.make_optimizers(fresh, two=two)
        assert saver.restore(latest, fresh, others) == progress
    assert _same(dict(fresh.state_dict()), weights)
    assert _same([each.state_dict() for each in others], states)
    # To the last bit, also in what follows.
    assert tiny.train(fresh, others, group, range(2, 4)) == expected


def json_free(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a state dict, so that training on does not change it."""
    copied: dict[str, Any] = pickle.loads(pickle.dumps(state))
    return copied


def test_state_that_is_no_tensor_comes_back(tmp_path: Path, group: Group) -> None:
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    optimizer.state[module.weight] = {"momentum_buffer": None, "count": 3}
    with _saver(tmp_path, group) as saver:
        saver.save(1, module, [optimizer], {})
        other = torch.optim.SGD(module.parameters(), lr=0.1)
        latest = saver.latest()
        assert latest is not None
        saver.restore(latest, module, [other])
    assert other.state[module.weight] == {"momentum_buffer": None, "count": 3}


def test_a_step_is_saved_once_and_nothing_at_first(tmp_path: Path, group: Group) -> None:
    step, optimizers = _trained(group)
    with _saver(tmp_path / "new", group) as saver:
        assert (saver.latest(), saver.best()) == (None, None)
        saver.save(3, step, optimizers, {"turn": 1})
        saver.save(3, step, optimizers, {"turn": 2})
        latest = saver.latest()
        assert latest is not None
        assert read_state(latest.folder).progress == {"turn": 1}


def test_what_is_kept(tmp_path: Path, group: Group) -> None:
    step, optimizers = _trained(group)
    scores = {1: 5.0, 2: 1.0, 3: 1.0, 4: 3.0, 5: None, 6: float("nan")}
    with _saver(tmp_path, group, keep_last=2) as saver:
        for number, score in scores.items():
            saver.save(number, step, optimizers, {}, score)
        saver.wait()
        assert [p.name for p in sorted(tmp_path.iterdir())] == [
            f"step-{number:08d}" for number in (2, 5, 6)
        ]
        best = saver.best()
        assert best is not None
        assert (best.step, best.score) == (2, 1.0)


def test_retention_never_names_the_newest_or_the_best() -> None:
    saved = [SavedCheckpoint(n, Path(str(n)), s) for n, s in ((1, 0.5), (2, 0.7), (3, None))]
    assert [each.step for each in superseded(saved, keep_last=1, keep_best=True)] == [2]
    assert [each.step for each in superseded(saved, keep_last=1, keep_best=False)] == [1, 2]
    assert superseded(saved, keep_last=5, keep_best=False) == []
    assert superseded([], keep_last=1, keep_best=True) == []


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path, group: Group) -> None:
    for name in ("step-00000009.partial", "mine.partial", "step-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    with _saver(tmp_path, group) as saver:
        assert saver.latest() is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.partial", "step-x"]


@pytest.fixture
def saved(tmp_path: Path, group: Group) -> Path:
    """A folder with good checkpoints of steps 1 and 2."""
    step, optimizers = _trained(group)
    with _saver(tmp_path / "checkpoints", group) as saver:
        saver.save(1, step, optimizers, {})
        saver.save(2, step, optimizers, {})
    return tmp_path / "checkpoints"


def _restore_latest(saver: Checkpointer, step: nn.Module, optimizers: Any) -> None:
    latest = saver.latest()
    assert latest is not None
    saver.restore(latest, step, optimizers)


def _save_and_wait(saver: Checkpointer, step: nn.Module, optimizers: Any) -> None:
    saver.save(3, step, optimizers, {})
    saver.wait()


def _refusal(folder: Path, group: Group, recipe: Recipe | None = None) -> str:
    step, optimizers = _trained(group, 0)
    with _saver(folder, group, recipe) as saver, pytest.raises(CheckpointError) as refused:
        _restore_latest(saver, step, optimizers)
    return str(refused.value)


@pytest.mark.parametrize("name", (".metadata", "__0_0.distcp", "state.json"))
def test_an_edited_file_is_named_and_so_is_a_good_checkpoint(
    saved: Path, group: Group, name: str
) -> None:
    path = saved / "step-00000002" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = _refusal(saved, group)
    assert name in message
    assert "damaged" in message
    assert f"{saved / 'step-00000001'} is good: move step-00000002 elsewhere" in message


def test_missing_and_foreign_files_are_named(saved: Path, group: Group) -> None:
    (saved / "step-00000001" / "extra").write_text("x")
    (saved / "step-00000002" / "__0_0.distcp").unlink()
    message = _refusal(saved, group)
    assert "__0_0.distcp is missing" in message
    assert "There is no other good checkpoint" in message
    (saved / "step-00000002").rename(saved / "aside")
    assert "extra does not belong there" in _refusal(saved, group)


def test_another_recipe_is_refused_by_what_differs(saved: Path, group: Group) -> None:
    recipe = Recipe(optimizer=OptimizerOptions(learning_rate=0.5), run=RunOptions(seed=7))
    message = _refusal(saved, group, recipe)
    assert "made by another recipe" in message
    assert "optimizer.learning_rate was 0.001, is 0.5; run.seed was 1337, is 7" in message


def test_another_network_is_refused_by_what_differs(saved: Path, group: Group) -> None:
    torch.manual_seed(0)
    for network, what in (
        (tiny.TinyNetwork(layers=3), "only this network has network.layers.2"),
        (tiny.TinyNetwork(layers=1), "only the checkpoint has network.layers.1"),
    ):
        step = tiny.TinyStep(network)
        with _saver(saved, group) as saver, pytest.raises(CheckpointError, match=what):
            _restore_latest(saver, step, tiny.make_optimizers(step))


def test_other_frozen_parts_are_refused(saved: Path, group: Group) -> None:
    step = tiny.make_step()
    step.network.table.weight.requires_grad_(False)
    with _saver(saved, group) as saver, pytest.raises(CheckpointError, match="does not train"):
        _restore_latest(saver, step, tiny.make_optimizers(step))


class _Hostile:
    """Unpickling it would run code."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


def test_metadata_that_is_a_program_does_not_run(saved: Path, tmp_path: Path) -> None:
    witness = tmp_path / "it-ran"
    folder = saved / "step-00000002"
    for hostile in (_Hostile(witness), {"state_dict_metadata": _Hostile(witness)}):
        (folder / ".metadata").write_bytes(pickle.dumps(hostile))
        with pytest.raises(CheckpointError, match="refused"):
            read_metadata(folder)
    assert not witness.exists()
    # The same bytes do run code where nothing restricts them.
    pickle.loads(pickle.dumps(_Hostile(witness)))
    assert witness.exists()


class _SlotState:
    """Unpickling it sets attributes on what it names, as `copyreg` does for slots."""

    def __init__(self, name: str) -> None:
        self.name = name

    def program(self) -> bytes:
        """PROTO 2; the class; (None, {"intruder": True}); BUILD; STOP."""
        module, name = self.name.rsplit(".", 1)
        return (
            b"\x80\x02c"
            + f"{module}\n{name}\n".encode()
            + b"N}X\x08\x00\x00\x00intruder\x88s\x86b."
        )


@pytest.mark.parametrize(
    "name",
    (
        "torch.distributed.checkpoint.metadata.Metadata",
        "torch.distributed.checkpoint.metadata.TensorProperties",
        "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
        "torch.distributed.checkpoint.filesystem._StorageInfo",
        "torch.serialization._get_layout",
        "torch.Size",
        "torch.float32",
    ),
)
def test_refused_metadata_leaves_the_process_as_it_was(name: str, saved: Path) -> None:
    folder = saved / "step-00000002"
    (folder / ".metadata").write_bytes(_SlotState(name).program())
    with pytest.raises(CheckpointError, match="refused"):
        read_metadata(folder)
    assert not hasattr(pkgutil.resolve_name(name), "intruder")
    # The same bytes do change the class where nothing stands in for it.
    if "metadata.Metadata" in name:
        pickle.loads(_SlotState(name).program())
        assert pkgutil.resolve_name(name).intruder
        del pkgutil.resolve_name(name).intruder


@pytest.mark.parametrize(
    "edit",
    (
        lambda m: m.state_dict_metadata.update(secret=object),
        lambda m: setattr(next(iter(m.storage_data.values())), "relative_path", "../../etc/passwd"),
        lambda m: setattr(m, "storage_data", None),
    ),
    ids=("no tensor", "path outside", "no files"),
)
def test_metadata_that_is_wrong_is_refused(saved: Path, edit: Any) -> None:
    folder = saved / "step-00000002"
    metadata = read_metadata(folder)
    edit(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="refused"):
        read_metadata(folder)


def test_a_full_disk_fails_the_save_and_keeps_the_last_good_one(saved: Path, group: Group) -> None:
    step, optimizers = _trained(group)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.getsignal(signal.SIGXFSZ)
    for asynchronous in (False, True):
        with _saver(saved, group, asynchronous=asynchronous) as saver:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            try:
                with pytest.raises(CheckpointError) as refused:
                    _save_and_wait(saver, step, optimizers)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            message = str(refused.value)
            assert "checkpoint of step 3 could not be written" in message
            assert f"the last good one is {saved / 'step-00000002'}" in message
            assert sorted(p.name for p in saved.iterdir()) == ["step-00000001", "step-00000002"]
            # With room again, the same save succeeds.
        with _saver(saved, group, keep_last=9, asynchronous=asynchronous) as saver:
            latest = saver.latest()
            assert latest is not None
            assert latest.step == 2
            saver.restore(latest, step, optimizers)
    assert signal.getsignal(signal.SIGXFSZ) == before


def test_progress_that_is_no_json_fails_at_once(tmp_path: Path, group: Group) -> None:
    step, optimizers = _trained(group)
    with _saver(tmp_path, group) as saver:
        with pytest.raises(CheckpointError, match="cannot be written as JSON"):
            saver.save(1, step, optimizers, {"loss": float("nan")})
        assert saver.latest() is None


def test_the_state_file_is_strict(saved: Path) -> None:
    folder = saved / "step-00000002"
    document = json.loads((folder / "state.json").read_bytes())
    for change in ({"format": "casemate.training-state/9"}, {"extra": 1}, {"step": 3}):
        (folder / "state.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(CheckpointError):
            read_state(folder)
    (folder / "state.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="no state of a run"):
        read_state(folder)


def test_an_optimizer_of_other_parameters_is_refused(tmp_path: Path, group: Group) -> None:
    step, _ = _trained(group)
    foreign = [torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)]
    with _saver(tmp_path, group) as saver, pytest.raises(CheckpointError, match="does not have"):
        saver.save(1, step, foreign, {})


def test_the_recipe_beside_the_tensors_is_readable(saved: Path) -> None:
    state = read_state(saved / "step-00000002")
    assert state.recipe["run.seed"] == 1337
    assert dataclasses.asdict(state)["world"] == 1
