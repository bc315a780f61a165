from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy import stats  # type: ignore[import-untyped]

from compiler.errors import QuantizationError, SourceError
from compiler.onnx_measure.outputs import encode_texts, run_outputs
from compiler.onnx_measure.quality import compare_outputs, similarities, spearman
from compiler.onnx_measure.speed import measure_onnx_speed
from tests.compiler.passes.graphs import run, tiny_encoder

TEXTS = ["a short one", "another text that is longer than the first", "a", "the end"]


@given(arrays.arrays(np.float64, (2, 12), elements=st.integers(-5, 5).map(float)))
@settings(max_examples=30)
def test_rank_correlation_is_scipys(pair: NDArray[np.float64]) -> None:
    first, second = pair
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second)[0])
    else:
        assert np.isnan(spearman(first, second))


def test_every_pair_is_compared_once() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 7))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = [float(a @ b) for a, b in itertools.combinations(unit, 2)]
    np.testing.assert_allclose(similarities(rows), expected)


def test_the_same_outputs_are_perfect_and_others_are_told_apart() -> None:
    reference = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    labels = reference.argmax(axis=1).tolist()
    same = compare_outputs(reference, reference, labels)
    assert (same.max_abs, same.top1, same.accuracy, same.reference_accuracy) == (0, 1, 1, 1)
    assert same.similarity_spearman == pytest.approx(1)
    assert same.kl_mean == pytest.approx(0)
    shuffled = compare_outputs(reference, np.roll(reference, 1, axis=1), labels)
    assert shuffled.top1 == shuffled.accuracy == 0
    assert shuffled.kl_mean > 0.1
    doubled = compare_outputs(reference, 2 * reference)
    assert doubled.similarity_spearman == pytest.approx(1)
    assert doubled.max_abs == pytest.approx(float(np.abs(reference).max()))
    assert doubled.accuracy is None


@pytest.mark.parametrize(
    ("candidate", "labels", "message"),
    [
        (np.zeros((3, 4), np.float32), None, "cannot be compared"),
        (np.full((2, 4), np.nan, np.float32), None, "candidate gives values"),
        (np.zeros((2, 4), np.float32), [1], "1 labels are given for 2 texts"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(
    candidate: NDArray[np.float32], labels: list[int] | None, message: str
) -> None:
    with pytest.raises(QuantizationError, match=message):
        compare_outputs(np.ones((2, 4), np.float32), candidate, labels)


def test_texts_become_the_outputs_of_the_graph(tmp_path: Path) -> None:
    model, folder = tiny_encoder(tmp_path / "m")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    feeds = encode_texts(folder / "tokenizer.json", TEXTS, batch=3, max_tokens=8)
    assert [len(one["input_ids"]) for one in feeds] == [3, 1]
    assert max(one["input_ids"].shape[1] for one in feeds) <= 8
    found = run_outputs(path, feeds)
    wanted = [{n: one[n] for n in ("input_ids", "attention_mask")} for one in feeds]
    expected = np.concatenate([run(model, one)[0] for one in wanted])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_speed_is_measured_for_each_case(tmp_path: Path) -> None:
    model, _ = tiny_encoder(tmp_path / "m")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    speed = measure_onnx_speed(path, cases=[(1, 4), (3, 8)], seconds=0.02, rounds=3)
    assert [(case.batch, case.length) for case in speed.cases] == [(1, 4), (3, 8)]
    assert all(0 < case.low <= case.median <= case.high for case in speed.cases)
    assert speed.file_bytes == path.stat().st_size
    assert speed.load_seconds > 0
    assert speed.peak_mib > 10
    assert speed.to_dict()["cases"][0]["batch"] == 1


# Of 98 and 99 ids a few random ones all fit a table that many do not.
@pytest.mark.parametrize("vocabulary", [5, 98, 99])
def test_a_small_vocabulary_is_timed(tmp_path: Path, vocabulary: int) -> None:
    table = np.random.default_rng(0).standard_normal((vocabulary, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["rows"])],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "tokens", 8])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "small.onnx"
    path.write_bytes(model.SerializeToString())
    speed = measure_onnx_speed(path, cases=[(1, 16), (32, 128)], seconds=0.01, rounds=1)
    assert all(case.median > 0 for case in speed.cases)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(QuantizationError, match="cannot be run by ONNX Runtime"):
        measure_onnx_speed(broken, seconds=0.01)
    with pytest.raises(QuantizationError, match="needs cases"):
        measure_onnx_speed(broken, cases=[])
    with pytest.raises(QuantizationError, match="no texts"):
        encode_texts(broken, [])
    with pytest.raises(SourceError, match="not a tokenizer"):
        encode_texts(broken, ["a"])
