"""What the trainer saved computes the same as a graph, for every family and task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compiler.onnx_export.export import export_onnx
from compiler.onnx_export.optimum_process import perform
from security.preparse import check_onnx
from tests.compiler.onnx_export.comparing import (
    TOLERANCE,
    Feeds,
    batches,
    difference,
    open_graph,
    run,
)
from tests.trainer.models.networks import KINDS, LABELS, SPECIAL, VOCABULARY, make
from trainer.models.load import load_network
from trainer.models.network import Network
from trainer.models.parts import add_task_layers

TASKS = {
    "next-token": "text-generation",
    "masked": "fill-mask",
    "classification": "text-classification",
    "tagging": "token-classification",
    "contrastive": "sentence-similarity",
    "infilling": "text2text-generation",
    "sequence-to-sequence": "text2text-generation",
}
# One of each way in which layers of finetuning are put in.
WITH_LAYERS = (
    "decoder",
    "encoder-masked",
    "encoder-classifier",
    "encoder-mean-classifier",
    "encoder-embedding",
    "seq2seq",
    "lstm-classifier",
    "convolution",
)


def save(network: Network, folder: Path) -> Network:
    """Give weights some size, save them, and read the network back as it will be used."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    folder.mkdir()
    network.save(folder)
    return load_network(folder).eval()


def expected(network: Network, feeds: Feeds, *, normalize: bool) -> NDArray[np.float32]:
    batch = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        output = network(batch)
        if normalize:
            output = torch.nn.functional.normalize(output, dim=-1)
    array: NDArray[np.float32] = output.numpy()
    return array


def with_targets(feeds: Feeds) -> Feeds:
    rows = len(feeds["input_ids"])
    targets = np.random.default_rng(5).integers(5, VOCABULARY, (rows, 6))
    targets[:, 0] = SPECIAL.pad or 0
    return {**feeds, "decoder_input_ids": targets}


@pytest.mark.parametrize(
    ("kind", "layers"), [(kind, 0) for kind in KINDS] + [(kind, 2) for kind in WITH_LAYERS]
)
def test_a_graph_computes_what_the_network_does(tmp_path: Path, kind: str, layers: int) -> None:
    network = make(kind)
    add_task_layers(network, layers)
    network = save(network, tmp_path / "final")
    export = export_onnx(tmp_path / "final", tmp_path / "onnx", run=perform)
    objective = KINDS[kind][1]
    assert export.task == TASKS[objective]
    assert export.labels == (LABELS if objective in ("classification", "tagging") else ())
    session = open_graph(export.graph)
    for plain in batches(VOCABULARY, 0):
        feeds = with_targets(plain) if network.family == "seq2seq" else plain
        wanted = expected(network, feeds, normalize=objective == "contrastive")
        assert difference(run(session, feeds), wanted, feeds) <= TOLERANCE
    with export.graph.open("rb") as file:
        summary = check_onnx(file.fileno(), export.graph.stat().st_size)
    assert {"input_ids", "attention_mask"} <= {value.name for value in summary.inputs}
    assert summary.opsets[""] == export.opset
    assert (tmp_path / "onnx" / "config.json").is_file()
    assert json.loads((tmp_path / "onnx" / "config.json").read_text())


def test_log_probabilities_of_an_adaptive_softmax_are_a_distribution(tmp_path: Path) -> None:
    save(make("lstm-adaptive"), tmp_path / "final")
    export = export_onnx(tmp_path / "final", tmp_path / "onnx", run=perform)
    for feeds in batches(VOCABULARY, 0):
        total = np.exp(run(open_graph(export.graph), feeds)).sum(-1)
        np.testing.assert_allclose(total, 1, atol=1e-4)
