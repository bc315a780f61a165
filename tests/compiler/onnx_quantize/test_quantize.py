"""Quantized files of a tiny encoder: they run, stay close, and are the same every time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compiler.bundling.inspect import inspect_onnx
from compiler.errors import QuantizationError
from compiler.onnx_measure.quality import compare_outputs
from compiler.onnx_measure.result import Feeds
from compiler.onnx_quantize.calibrate import gather_statistics
from compiler.onnx_quantize.int8 import quantize_table
from compiler.onnx_quantize.plan import OnnxPlan
from compiler.onnx_quantize.quantize import quantize_model, quantize_onnx
from compiler.onnx_quantize.sensitivity import mixed_plan, rank_sensitivity
from compiler.onnx_quantize.sites import find_sites
from tests.compiler.passes.graphs import model_of, operators, run, tiny_encoder, tiny_texts

FEEDS = [tiny_texts(8, 12, seed) for seed in range(3)]
PLANS = {
    "half": (OnnxPlan(kind="float16"), 0.9999),
    "dynamic": (OnnxPlan(), 0.99),
    "dynamic reduced": (OnnxPlan(reduce_range=True), 0.98),
    "dynamic per tensor": (OnnxPlan(per_channel=False), 0.97),
    "tables too": (OnnxPlan(embeddings=True), 0.99),
    "static": (OnnxPlan(kind="static_int8"), 0.99),
    "static percentile": (OnnxPlan(kind="static_int8", calibration="percentile"), 0.98),
    "static entropy": (OnnxPlan(kind="static_int8", calibration="entropy"), 0.9),
    "4 bits": (OnnxPlan(kind="blocks"), 0.95),
    "4 bits symmetric": (OnnxPlan(kind="blocks", symmetric=True), 0.95),
    "4 bits half-quadratic": (OnnxPlan(kind="blocks", rounding="hqq"), 0.95),
    "4 bits with feedback": (OnnxPlan(kind="blocks", rounding="gptq"), 0.96),
    "8 bits": (OnnxPlan(kind="blocks", bits=8, block=16), 0.999),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    model, _ = tiny_encoder(folder / "m")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def quantized(
    model: onnx.ModelProto, plan: OnnxPlan, feeds: Sequence[Feeds], work: Path
) -> tuple[list[str], list[str]]:
    """Quantize a model in place, as calibrated on inputs."""
    path = work / "calibrated.onnx"
    path.write_bytes(model.SerializeToString())
    return quantize_model(model, plan, gather_statistics(path, plan, feeds))


def rows(model: onnx.ModelProto) -> NDArray[np.float32]:
    return np.concatenate([run(model, feeds)[0] for feeds in FEEDS])


@pytest.mark.parametrize("name", PLANS)
def test_outputs_stay_close_and_the_preparser_takes_the_file(
    tmp_path: Path, source: Path, name: str
) -> None:
    plan, least = PLANS[name]
    expected = rows(onnx.load(source))
    model = onnx.load(source)
    done, kept = quantized(model, plan, FEEDS, tmp_path)
    assert done
    assert not set(done) & set(kept)
    onnx.checker.check_model(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    inspect_onnx(path)
    assert path.stat().st_size < 0.85 * source.stat().st_size
    quality = compare_outputs(expected, rows(model))
    assert quality.cosine_mean > least


@pytest.mark.parametrize(
    "name", ["tables too", "static percentile", "4 bits with feedback", "half"]
)
def test_a_file_is_made_of_the_same_bytes_every_time(
    tmp_path: Path, source: Path, name: str
) -> None:
    plan = PLANS[name][0]
    first, second = (
        quantize_onnx(source, tmp_path / f"{n}.onnx", plan, FEEDS) for n in ("first", "second")
    )
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.size_bytes == first.path.stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.onnx", "second.onnx"]


def test_a_shared_activation_is_quantized_once(source: Path) -> None:
    model = onnx.load(source)
    quantize_model(model, OnnxPlan())
    kinds = operators(model)
    # Query, key and value share one; two layers.
    assert kinds.count("DynamicQuantizeLinear") == 2
    assert kinds.count("MatMulIntegerToFloat") == 6


def test_excluded_tensors_stay_in_float(source: Path) -> None:
    model = onnx.load(source)
    tensor = find_sites(model)[1].tensor
    before = next(t for t in model.graph.initializer if t.name == tensor).SerializeToString()
    done, kept = quantize_model(model, OnnxPlan(excluded=(tensor,)))
    assert tensor in kept
    assert tensor not in done
    assert before in {t.SerializeToString() for t in model.graph.initializer}


def test_a_tied_table_is_looked_up_and_multiplied() -> None:
    table = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=7),
        helper.make_node("Gather", ["w", "ids"], ["e"]),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "wt"], ["y"]),
    ]
    model = model_of(nodes, {"w": table}, inputs={"x": ["n"]}, outputs={"y": ["n", 200]})
    feeds = {"x": np.arange(20, dtype=np.float32)}
    expected = run(model, feeds)[0]
    quantize_model(model, OnnxPlan(embeddings=True))
    assert "Transpose" not in operators(model)
    assert all(
        numpy_helper.to_array(t).dtype != np.float32 or t.dims[0] == 200
        for t in model.graph.initializer
    )
    assert compare_outputs(expected, run(model, feeds)[0]).cosine_mean > 0.999


@pytest.mark.parametrize("order", [[0, 1], [1, 0], None], ids=str)
def test_the_order_of_a_transpose_is_minded(order: list[int] | None) -> None:
    random = np.random.default_rng(0)
    turn = helper.make_node("Transpose", ["w"], ["t"], **({"perm": order} if order else {}))
    model = model_of(
        [turn, helper.make_node("MatMul", ["x", "t"], ["y"])],
        {"w": random.standard_normal((64, 64)).astype(np.float32)},
        inputs={"x": ["n", 64]},
        outputs={"y": ["n", 64]},
    )
    feeds = {"x": random.standard_normal((5, 64)).astype(np.float32)}
    expected = run(model, feeds)[0]
    if order == [0, 1]:
        with pytest.raises(QuantizationError, match="no constant matrix"):
            quantize_model(model, OnnxPlan())
    else:
        quantize_model(model, OnnxPlan())
    assert compare_outputs(expected, run(model, feeds)[0]).cosine_mean > 0.999


def test_a_graph_with_tables_alone_has_nothing_to_calibrate(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["ids"], to=7),
        helper.make_node("Gather", ["w", "ids"], ["y"]),
    ]
    model = model_of(nodes, {"w": table}, inputs={"x": ["n"]}, outputs={"y": ["n", 64]})
    feeds = {"x": np.arange(20, dtype=np.float32)}
    plan = OnnxPlan(kind="static_int8", embeddings=True)
    assert quantized(model, plan, [feeds], tmp_path) == (["w"], [])


def test_a_table_is_the_same_in_pieces_and_takes_little_memory() -> None:
    table = np.random.default_rng(0).standard_normal((30_000, 64)).astype(np.float32)
    table[5000] = 0
    tracemalloc.start()
    packed, scale = quantize_table(table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The result is a quarter of it, a piece an eighth.
    assert peak < table.nbytes
    whole = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    np.testing.assert_array_equal(scale, whole)
    np.testing.assert_array_equal(packed, np.rint(table / whole).astype(np.int8))


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_with_a_bias(transposed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((96, 96)).astype(np.float32)
    bias = random.standard_normal(96).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)]
    constants = {"w": weight, "b": bias}
    feeds = {"x": random.standard_normal((5, 96)).astype(np.float32)}
    for plan in (OnnxPlan(), OnnxPlan(kind="blocks", bits=8), OnnxPlan(kind="static_int8")):
        model = model_of(nodes, constants, inputs={"x": ["n", 96]}, outputs={"y": ["n", 96]})
        expected = run(model, feeds)[0]
        quantized(model, plan, [feeds], tmp_path)
        assert compare_outputs(expected, run(model, feeds)[0]).cosine_mean > 0.999


def test_a_width_that_is_no_whole_number_of_blocks(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((100, 50)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    feeds = {"x": np.random.default_rng(1).standard_normal((7, 100)).astype(np.float32)}
    for rounding in ("rtn", "gptq"):
        model = model_of(nodes, {"w": weight}, inputs={"x": ["n", 100]}, outputs={"y": ["n", 50]})
        expected = run(model, feeds)[0]
        quantized(model, OnnxPlan(kind="blocks", rounding=rounding), [feeds], tmp_path)
        assert compare_outputs(expected, run(model, feeds)[0]).cosine_mean > 0.98


def test_ranking_finds_the_tensor_that_suffers_and_the_mixed_plan_spares_it(
    tmp_path: Path, source: Path
) -> None:
    model = onnx.load(source)
    site = next(s for s in find_sites(model) if "layer.1.output" in s.tensor)
    tensor = next(t for t in model.graph.initializer if t.name == site.tensor)
    weight = numpy_helper.to_array(tensor).copy()
    # One huge weight in each column leaves the others a coarse grid.
    weight[0] = 60 * np.abs(weight).max()
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    spoilt = tmp_path / "spoilt.onnx"
    spoilt.write_bytes(model.SerializeToString())
    seen: list[float] = []
    ranking = rank_sensitivity(
        spoilt, OnnxPlan(), FEEDS, progress=lambda _, fraction: seen.append(fraction)
    )
    assert len(seen) == len(ranking)
    assert seen == sorted(seen)
    assert ranking[0].tensor == site.tensor
    assert ranking[0].divergence > ranking[1].divergence > 0
    assert ranking[0].parameters == weight.size

    def accept(path: Path) -> bool:
        names = {tensor.name for tensor in onnx.load(path).graph.initializer}
        return site.tensor in names

    work = tmp_path / "work"
    work.mkdir()
    plan = mixed_plan(spoilt, OnnxPlan(), ranking, accept, work)
    assert plan is not None
    assert plan.excluded == (site.tensor,)
    assert mixed_plan(spoilt, OnnxPlan(), ranking, lambda _: False, work) is None
    assert mixed_plan(spoilt, OnnxPlan(), ranking, lambda _: True, work) == OnnxPlan()
    assert not list(work.iterdir())


def test_what_cannot_be_quantized_is_refused(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(QuantizationError, match="needs calibration"):
        quantize_onnx(source, out, OnnxPlan(kind="static_int8"))
    with pytest.raises(QuantizationError, match="which the graph does not have"):
        quantize_onnx(source, out, OnnxPlan(excluded=("nowhere",)))
    with pytest.raises(QuantizationError, match="needs the inputs") as caught:
        quantize_onnx(source, out, OnnxPlan(kind="static_int8"), [{"x": np.zeros(3)}])
    assert "0." not in str(caught.value)
    with pytest.raises(QuantizationError, match="ranking tensors needs inputs"):
        rank_sensitivity(source, OnnxPlan(), [])
    model = onnx.load(source)
    quantize_model(model, OnnxPlan(excluded=(find_sites(model)[2].tensor,)))
    with pytest.raises(QuantizationError, match="quantized before"):
        quantize_model(model, OnnxPlan())
    assert not out.exists()
    assert not list(tmp_path.iterdir())
