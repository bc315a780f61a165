from __future__ import annotations

import json

import numpy as np
import pytest

from tests.trainer.embeddings.test_session import Recorder, recipe
from tests.trainer.embeddings.texts import as_text, grouped_words
from trainer.embeddings.evaluation import evaluate_embeddings
from trainer.embeddings.session import train_embeddings
from trainer.errors import CheckpointError, DataError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    text, held_out = folder / "text.txt", folder / "held-out.txt"
    text.write_text(as_text(grouped_words(4000)))
    held_out.write_text(as_text(grouped_words(500, seed=8)))
    loaded = recipe(text, f"data.validation={held_out}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        summary = train_embeddings(loaded, folder / "run", Recorder())
    return folder / "run" / "final", held_out, summary, loaded.recipe.data


def test_the_held_out_text_has_the_loss_that_the_run_reported(run):
    final, held_out, summary, data = run
    result = evaluate_embeddings(final, [held_out], data)
    assert result.loss == pytest.approx(summary["validation_loss"], rel=1e-12)
    assert result.examples == 500
    assert result.metrics == {"unknown_words": 0}


def test_a_text_that_is_not_like_the_training_text_has_a_higher_loss(run, tmp_path):
    final, held_out, _, data = run
    words = held_out.read_text().split()
    np.random.default_rng(0).shuffle(words)
    other = tmp_path / "shuffled.txt"
    other.write_text(" ".join(words))
    assert (
        evaluate_embeddings(final, [other]).loss
        > 1.1 * evaluate_embeddings(final, [held_out], data).loss
    )


def test_the_share_of_unknown_words_is_told(run, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("worda stranger wordb stranger")
    assert evaluate_embeddings(run[0], [path]).metrics == {"unknown_words": 0.5}


def test_a_text_without_a_pair_is_refused(run, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("nothing known here but worda alone")
    with pytest.raises(DataError, match="no two words"):
        evaluate_embeddings(run[0], [path])


@pytest.mark.parametrize("value", [None, 0, 65, "five", [5]])
def test_a_checkpoint_with_impossible_settings_is_refused(run, tmp_path, value):
    for file in run[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "window": value}))
    with pytest.raises(CheckpointError, match="window"):
        evaluate_embeddings(tmp_path, [run[1]])
