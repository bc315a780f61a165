"""The exported encoder computes what BERT computes, for every shape it may be given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from compiler.encoder.bert import BertConfig, BertWeights, read_config, read_weights
from compiler.encoder.bert_graph import classifier_graph, embedding_graph
from compiler.errors import SourceError
from tests.compiler.reference_bert import ReferenceBert
from tests.support.tiny_models import (
    CLASSIFIER_LABELS,
    ENCODER_HEADS,
    ENCODER_POSITIONS,
    tiny_classifier_dir,
    tiny_encoder_dir,
)

TOLERANCE = 1e-4
Ids = NDArray[np.int64]


def texts(batch: int, length: int, vocabulary: int) -> tuple[Ids, Ids]:
    """Random ids, each row with another number of padding tokens at its end."""
    random = np.random.default_rng(batch * 1000 + length)
    ids = random.integers(5, vocabulary, (batch, length))
    mask = np.ones((batch, length), np.int64)
    for row in range(batch):
        mask[row, max(1, length - 3 * row) :] = 0
    return np.where(mask == 1, ids, 0), mask


def run(model: onnx.ModelProto, ids: Ids, mask: Ids) -> NDArray[np.float32]:
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    output: NDArray[np.float32] = result
    return output


def load(folder: Path) -> tuple[BertConfig, BertWeights]:
    config = read_config(folder)
    return config, read_weights(folder, config)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_match_the_reference(tmp_path: Path, pooling: str, normalize: bool) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    config, weights = load(folder)
    model = embedding_graph(config, weights, pooling, normalize=normalize)
    reference = ReferenceBert(folder, ENCODER_HEADS)
    for batch, length in [(1, 1), (1, 16), (3, 9), (4, ENCODER_POSITIONS)]:
        ids, mask = texts(batch, length, config.vocabulary)
        expected = reference.embedding(ids, mask, pooling, normalize)
        np.testing.assert_allclose(run(model, ids, mask), expected, atol=TOLERANCE)


def test_logits_match_the_reference(tmp_path: Path) -> None:
    folder = tiny_classifier_dir(tmp_path / "m")
    config, weights = load(folder)
    assert config.labels == CLASSIFIER_LABELS
    ids, mask = texts(3, 12, config.vocabulary)
    actual = run(classifier_graph(config, weights), ids, mask)
    expected = ReferenceBert(folder, ENCODER_HEADS).logits(ids, mask)
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_tanh_gelu_matches_the_reference(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    change_config(folder, hidden_act="gelu_new")
    config, weights = load(folder)
    ids, mask = texts(2, 10, config.vocabulary)
    actual = run(embedding_graph(config, weights, "mean", normalize=True), ids, mask)
    reference = ReferenceBert(folder, ENCODER_HEADS, tanh_gelu=True)
    np.testing.assert_allclose(actual, reference.embedding(ids, mask, "mean", True), atol=TOLERANCE)


def test_padding_does_not_change_a_vector(tmp_path: Path) -> None:
    config, weights = load(tiny_encoder_dir(tmp_path / "m"))
    model = embedding_graph(config, weights, "mean", normalize=True)
    ids, mask = texts(1, 7, config.vocabulary)
    padded = np.pad(ids, ((0, 0), (0, 9)))
    padded_mask = np.pad(mask, ((0, 0), (0, 9)))
    np.testing.assert_allclose(
        run(model, ids, mask), run(model, padded, padded_mask), atol=TOLERANCE
    )


def test_export_is_deterministic(tmp_path: Path) -> None:
    config, weights = load(tiny_encoder_dir(tmp_path / "m"))
    models = [embedding_graph(config, weights, "mean", normalize=True) for _ in range(2)]
    assert models[0].SerializeToString() == models[1].SerializeToString()


def test_half_precision_weights_are_widened(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    path = folder / "model.safetensors"
    save_file({name: a.astype(np.float16) for name, a in load_file(path).items()}, path)
    _, weights = load(folder)
    assert {weights[name].dtype for name in weights.names} == {np.dtype(np.float32)}


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "roberta"}, "only model_type 'bert'"),
        ({"position_embedding_type": "relative_key"}, "relative position"),
        ({"is_decoder": True}, "decoder"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"hidden_size": 0}, "hidden_size must be from 1"),
        ({"hidden_size": "64"}, "'hidden_size' as a int"),
        ({"num_hidden_layers": True}, "'num_hidden_layers' as a int"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be from 1"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"vocab_size": 7}, "config.json says"),
        ({"num_hidden_layers": 3}, "is missing"),
    ],
)
def test_config_that_cannot_be_exported_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    change_config(folder, **values)
    with pytest.raises(SourceError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "labels", [None, {}, {"1": "a"}, {"0": "a", "1": "a"}, {"0": 3}, {"0": ""}]
)
def test_classifier_without_proper_labels_is_refused(tmp_path: Path, labels: Any) -> None:
    folder = tiny_classifier_dir(tmp_path / "m")
    change_config(folder, id2label=labels)
    with pytest.raises(SourceError, match="id2label"):
        load(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    path = folder / "model.safetensors"
    tensors = dict(load_file(path))
    tensors["embeddings.LayerNorm.bias"][3] = np.nan
    save_file(tensors, path)
    config, weights = load(folder)
    with pytest.raises(SourceError, match="not finite"):
        embedding_graph(config, weights, "mean", normalize=True)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    path = folder / "model.safetensors"
    tensors: dict[str, NDArray[Any]] = dict(load_file(path))
    tensors["embeddings.LayerNorm.bias"] = np.zeros(64, np.int8)
    save_file(tensors, path)
    with pytest.raises(SourceError, match="is I8"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\xff" * 64])
def test_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = tiny_encoder_dir(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(SourceError, match="safetensors"):
        load(folder)


@pytest.mark.model
def test_minilm_matches_the_reference(minilm_dir: Path) -> None:
    config, weights = load(minilm_dir)
    ids, mask = texts(2, 12, config.vocabulary)
    actual = run(embedding_graph(config, weights, "mean", normalize=True), ids, mask)
    expected = ReferenceBert(minilm_dir, config.heads).embedding(ids, mask, "mean", True)
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE)
