from __future__ import annotations

import json
import resource
import signal

import numpy as np
import pytest

from trainer.embeddings.state import StateFolder
from trainer.errors import CheckpointError

INPUTS = np.arange(12, dtype=np.float32).reshape(3, 4)
OUTPUTS = -INPUTS


def states(folder, *, recipe="r", data="d", keep=2) -> StateFolder:
    return StateFolder(folder / "checkpoints", recipe, data, keep)


def test_what_was_saved_comes_back(tmp_path):
    states(tmp_path).save(7, INPUTS, OUTPUTS, {"seconds": 1.5})
    saved = states(tmp_path).latest()
    assert saved is not None
    assert (saved.chunks, dict(saved.progress)) == (7, {"seconds": 1.5})
    assert (saved.inputs == INPUTS).all()
    assert (saved.outputs == OUTPUTS).all()


def test_there_is_nothing_to_go_on_from_at_first(tmp_path):
    assert states(tmp_path).latest() is None


def test_the_newest_are_kept_and_one_is_written_over(tmp_path):
    kept = states(tmp_path, keep=2)
    for chunks in (1, 2, 10, 10):
        kept.save(chunks, INPUTS, OUTPUTS, {})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000002", "step-00000010"]


def test_a_state_that_was_cut_while_written_is_no_state(tmp_path):
    kept = states(tmp_path)
    kept.save(1, INPUTS, OUTPUTS, {})
    (tmp_path / "checkpoints" / "step-00000002.partial").mkdir()
    saved = kept.latest()
    assert saved is not None
    assert saved.chunks == 1
    kept.save(2, INPUTS, OUTPUTS, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"recipe": "s"}, "another recipe"), ({"data": "e"}, "other data")],
)
def test_a_state_of_another_run_is_refused(tmp_path, change, message):
    states(tmp_path).save(1, INPUTS, OUTPUTS, {})
    with pytest.raises(CheckpointError, match=message):
        states(tmp_path, **change).latest()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(change):
    def damage(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


DAMAGES = {
    "matrix bit flipped": ("matrices.safetensors", flip_a_bit),
    "matrix cut short": (
        "matrices.safetensors",
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
    ),
    "matrix missing": ("matrices.safetensors", lambda path: path.unlink()),
    "progress missing": ("progress.json", lambda path: path.unlink()),
    "progress empty": ("progress.json", lambda path: path.write_text("")),
    "progress a list": ("progress.json", lambda path: path.write_text("[]")),
    "chunks missing": ("progress.json", edit(lambda content: content["progress"].pop("chunks"))),
    "digest missing": ("progress.json", edit(lambda content: content.pop("matrices_sha256"))),
    "another format": ("progress.json", edit(lambda content: content.update(format="x/9"))),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_refused_with_advice(tmp_path, name):
    file, damage = DAMAGES[name]
    damage(states(tmp_path).save(3, INPUTS, OUTPUTS, {}) / file)
    with pytest.raises(CheckpointError, match=r"remove .*step-00000003"):
        states(tmp_path).latest()


def test_a_full_disk_leaves_the_state_before_it(tmp_path):
    kept = states(tmp_path)
    kept.save(1, INPUTS, OUTPUTS, {})
    large = np.zeros((1000, 100), dtype=np.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(CheckpointError, match="could not be written"):
            kept.save(2, large, large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    saved = kept.latest()
    assert saved is not None
    assert saved.chunks == 1
