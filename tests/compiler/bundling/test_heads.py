"""Output layers of stock classes: which are served and how, and which are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from compiler.bundling.sources import plan_source
from compiler.errors import SourceError
from compiler.files import Settings
from compiler.onnx_export.export import export_onnx
from compiler.onnx_export.optimum_process import perform
from compiler.source.heads import raw_scores
from compiler.source.read import read_source
from tests.support.tiny_models import tiny_encoder_dir
from tests.trainer.e2e.small import answer, typed

TEXTS = {
    "input_ids": np.array([[2, 9, 7, 3], [2, 11, 3, 0]]),
    "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


def saved(folder: Path, name: str, **values: Any) -> Any:
    """Save a tiny BERT with a head beside a tokenizer; return it."""
    import torch
    import transformers

    tokenizer = tiny_encoder_dir(folder.with_name(f"{folder.name}-words"))
    size = len(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        **values,
    )
    model = getattr(transformers, name)(config).eval()
    model.save_pretrained(folder)
    shutil.copy(tokenizer / "tokenizer.json", folder)
    shutil.rmtree(tokenizer)
    return model


def outputs(model: Any) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        found = model(**{name: torch.from_numpy(array) for name, array in TEXTS.items()})
    return [array.numpy() for array in found.to_tuple()]


def run(graph: Path, names: list[str]) -> list[np.ndarray]:
    session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == names
    wanted = [value.name for value in session.get_inputs()]
    given = {**TEXTS, "token_type_ids": np.zeros_like(TEXTS["input_ids"])}
    found: list[np.ndarray] = session.run(None, {name: given[name] for name in wanted})
    return found


def compiled(source: Path, output: Path, *words: str) -> Any:
    more = ("--no-tune", "--json", *words)
    return answer(typed("compile", source, "-o", output, *more))


def test_answers_to_questions_are_served_as_where_they_begin_and_end(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "BertForQuestionAnswering")
    # With probes: the appliance's worker runs it once.
    made = compiled(tmp_path / "model", tmp_path / "out")
    assert made["task"] == "tensor"
    assert made["probes_recorded"]
    graph = tmp_path / "out/variants/default/model.onnx"
    for found, wanted in zip(
        run(graph, ["start_logits", "end_logits"]), outputs(model), strict=True
    ):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"num_labels": 1}, "a regression"),
        ({"num_labels": 3, "problem_type": "regression"}, "a regression"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "do not exclude"),
    ],
    ids=["one score", "three scores", "labels that go together"],
)
def test_scores_that_are_no_distribution_are_not_served_as_one(
    values: dict[str, Any], why: str, tmp_path: Path
) -> None:
    saved(tmp_path / "model", "BertForSequenceClassification", **values)
    source = read_source(tmp_path / "model")
    assert source.task == "tensor"
    assert why in (raw_scores(Settings(tmp_path / "model" / "config.json")) or "")


def test_a_regression_is_served_as_it_computes(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "BertForSequenceClassification", num_labels=1)
    made = compiled(tmp_path / "model", tmp_path / "out", "--no-probes")
    assert made["task"] == "tensor"
    assert "its output layer is a regression" in made["notes"][0]
    (found,) = run(tmp_path / "out/variants/default/model.onnx", ["logits"])
    np.testing.assert_allclose(found, outputs(model)[0], atol=1e-3)


def test_a_graph_of_a_regression_is_not_served_as_a_classifier(tmp_path: Path) -> None:
    saved(tmp_path / "model", "BertForSequenceClassification", num_labels=1)
    made = export_onnx(tmp_path / "model", tmp_path / "onnx", run=perform)
    assert read_source(made.folder).task == "tensor"
    assert read_source(made.graph).task == "tensor"
    source = read_source(made.folder)
    assert plan_source(source, tmp_path, lambda _: None).task == "tensor"
    with pytest.raises(SourceError, match="for the task 'tensor', not 'classify'"):
        plan_source(source, tmp_path, lambda _: None, "classify")


def test_a_classifier_of_labels_that_exclude_one_another_is_one(tmp_path: Path) -> None:
    saved(tmp_path / "model", "BertForSequenceClassification", num_labels=3)
    plan = plan_source(read_source(tmp_path / "model"), tmp_path, lambda _: None)
    assert plan.task == "classify"


def test_masked_words_are_left_out_with_a_note_or_served_where_asked_for(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "BertForMaskedLM")
    source = read_source(tmp_path / "model")
    plan = plan_source(source, tmp_path, lambda _: None)
    assert plan.task == "embed"
    assert plan.export is not None
    assert "--task tensor" in plan.export.notes[0]
    made = compiled(tmp_path / "model", tmp_path / "out", "--task", "tensor", "--no-probes")
    assert made["task"] == "tensor"
    (found,) = run(tmp_path / "out/variants/default/model.onnx", ["logits"])
    np.testing.assert_allclose(found, outputs(model)[0], atol=1e-3)


def test_labels_of_tokens_are_served_as_tensors(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", "BertForTokenClassification", num_labels=5)
    made = export_onnx(tmp_path / "model", tmp_path / "onnx", run=perform)
    assert made.task == "token-classification"
    (found,) = run(made.graph, ["logits"])
    np.testing.assert_allclose(found, outputs(model)[0], atol=1e-3)


@pytest.mark.parametrize(
    "name", ["BertForMultipleChoice", "BertForNextSentencePrediction", "GPT2DoubleHeadsModel"]
)
def test_a_head_that_nothing_serves_is_refused_by_name(name: str, tmp_path: Path) -> None:
    saved(tmp_path / "model", "BertModel")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": [name]}))
    with pytest.raises(SourceError) as caught:
        plan_source(read_source(tmp_path / "model"), tmp_path, lambda _: None)
    said = str(caught.value)
    assert name in said
    for ending in ("ForSequenceClassification", "ForQuestionAnswering", "ForCausalLM"):
        assert ending in said
