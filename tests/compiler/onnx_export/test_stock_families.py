"""Directories of architectures that transformers has compute the same as graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import transformers
from numpy.typing import NDArray

from compiler.encoder.bert import read_config, read_weights
from compiler.encoder.bert_graph import classifier_graph, embedding_graph
from compiler.onnx_export.export import export_onnx
from compiler.onnx_export.optimum_process import perform
from compiler.onnx_export.result import OnnxExport
from tests.compiler.onnx_export.comparing import (
    TOLERANCE,
    Feeds,
    batches,
    difference,
    open_graph,
    padded,
    run,
)
from tests.support.tiny_models import tiny_classifier_dir, tiny_encoder_dir

VOCABULARY = 61
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_PAIR = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
# A class of transformers, and its configuration.
MODELS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": _SIZES,
    "BertModel": _SIZES,
    "DistilBertForSequenceClassification": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "hidden_dim": 64,
        "n_layers": 2,
        "n_heads": 4,
        "max_position_embeddings": 64,
    },
    "RobertaForTokenClassification": _SIZES | {"max_position_embeddings": 70, "num_labels": 5},
    "GPT2LMHeadModel": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "LlamaForSequenceClassification": _GROUPED | {"num_labels": 3},
    "MistralForCausalLM": _GROUPED | {"sliding_window": None},
    "Qwen2ForCausalLM": _GROUPED,
    "Qwen3ForCausalLM": _GROUPED,
    "BartForConditionalGeneration": _PAIR,
    "MarianMTModel": _PAIR,
    "T5ForConditionalGeneration": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    },
}


def make(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Save a tiny model of a class, and return it as transformers reads it back."""
    kind = getattr(transformers, name)
    torch.manual_seed(1)
    model = kind(kind.config_class(**MODELS[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def expected(model: Any, feeds: Feeds) -> NDArray[np.float32]:
    inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with torch.no_grad():
        output = model(**inputs)[0]
    array: NDArray[np.float32] = output.numpy()
    return array


def with_targets(feeds: Feeds) -> Feeds:
    rows = len(feeds["input_ids"])
    return {
        **feeds,
        "decoder_input_ids": np.random.default_rng(5).integers(5, VOCABULARY, (rows, 6)),
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    model = make(name, tmp_path / "model")
    export = export_onnx(tmp_path / "model", tmp_path / "onnx", run=perform)
    session = open_graph(export.graph)
    for plain in batches(VOCABULARY, 0):
        feeds = with_targets(plain) if model.config.is_encoder_decoder else plain
        assert difference(run(session, feeds), expected(model, feeds), feeds) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_with_in_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = make("LlamaForSequenceClassification", tmp_path / "model", dtype)
    export = export_onnx(tmp_path / "model", tmp_path / "onnx", run=perform)
    feeds = list(batches(VOCABULARY, 0))[1]
    found = run(open_graph(export.graph), feeds)
    assert difference(found, expected(model, feeds), feeds) <= TOLERANCE


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = make("Qwen2ForCausalLM", tmp_path / "model")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    export = export_onnx(tmp_path / "shards", tmp_path / "onnx", run=perform)
    assert len(export.weights) > 1
    feeds = list(batches(VOCABULARY, 0))[1]
    assert difference(run(open_graph(export.graph), feeds), expected(model, feeds), feeds) < 1e-3


def test_a_token_left_out_on_the_left_moves_no_position(tmp_path: Path) -> None:
    make("GPT2LMHeadModel", tmp_path / "model")
    export = export_onnx(tmp_path / "model", tmp_path / "onnx", run=perform)
    session = open_graph(export.graph)
    ids = np.array([[7, 8, 9, 10]])
    plain = run(session, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    shifted = {
        "input_ids": np.array([[0, 0, 7, 8, 9, 10]]),
        "attention_mask": np.array([[0, 0, 1, 1, 1, 1]]),
    }
    np.testing.assert_allclose(run(session, shifted)[:, 2:], plain, atol=TOLERANCE)


def test_a_decoder_with_a_cache_goes_on_where_it_was(tmp_path: Path) -> None:
    model = make("Qwen2ForCausalLM", tmp_path / "model")
    export = export_onnx(tmp_path / "model", tmp_path / "onnx", cache=True, run=perform)
    assert export.task == "text-generation-with-past"
    session = open_graph(export.graph)
    ids = np.random.default_rng(2).integers(5, VOCABULARY, (2, 9))
    whole = expected(model, {"input_ids": ids})
    names = [value.name for value in session.get_inputs() if value.name.startswith("past")]
    past = {name: np.zeros((2, 2, 0, 8), np.float32) for name in names}
    found = []
    for start, end in ((0, 4), (4, 5), (5, 9)):
        feeds = {
            "input_ids": ids[:, start:end],
            "attention_mask": np.ones((2, end), np.int64),
            "position_ids": np.tile(np.arange(start, end), (2, 1)),
        }
        logits, *present = session.run(None, feeds | past)
        outputs = [value.name for value in session.get_outputs()][1:]
        past = {
            name.replace("present", "past_key_values"): array
            for name, array in zip(outputs, present, strict=True)
        }
        found.append(logits)
    np.testing.assert_allclose(np.concatenate(found, 1), whole, atol=TOLERANCE)


def test_an_encoder_decoder_with_a_cache_goes_on_where_it_was(tmp_path: Path) -> None:
    model = make("T5ForConditionalGeneration", tmp_path / "model")
    export = export_onnx(tmp_path / "model", tmp_path / "onnx", cache=True, run=perform)
    names = ["decoder_model.onnx", "decoder_with_past_model.onnx", "encoder_model.onnx"]
    assert [path.name for path in export.graphs] == names
    first, later, encoder = (open_graph(path) for path in export.graphs)
    feeds = with_targets(list(batches(VOCABULARY, 0))[1])
    whole = expected(model, feeds)
    states = encoder.run(None, {n: feeds[n] for n in ("input_ids", "attention_mask")})[0]
    common = {"encoder_attention_mask": feeds["attention_mask"]}
    targets = feeds["decoder_input_ids"]
    begun = {"input_ids": targets[:, :1], "encoder_hidden_states": states, **common}
    names = [value.name for value in first.get_outputs()]
    kept = dict(zip(names, first.run(None, begun), strict=True))
    found = [kept["logits"]]
    for step in range(1, targets.shape[1]):
        past = {
            n.replace("present", "past_key_values"): a for n, a in kept.items() if n != "logits"
        }
        names = [value.name for value in later.get_outputs()]
        inputs = {"input_ids": targets[:, step : step + 1], **common, **past}
        kept |= dict(zip(names, later.run(None, inputs), strict=True))
        found.append(kept["logits"])
    np.testing.assert_allclose(np.concatenate(found, 1), whole, atol=TOLERANCE)


def _text_batches(folder: Path, texts: list[str]) -> list[Feeds]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    rows = [tokenizer.encode(text).ids for text in texts]
    return [padded(rows, 0), padded(rows[:1], 0)]


def _own(folder: Path, *, classify: bool) -> ort.InferenceSession:
    config = read_config(folder)
    weights = read_weights(folder, config)
    if classify:
        graph = classifier_graph(config, weights)
    else:
        graph = embedding_graph(config, weights, "mean", normalize=True)
    return ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


TEXTS = ["the river bank", "his money was in the bank", "cat", "a good queen, and a bad king"]


@pytest.mark.parametrize("classify", [False, True])
def test_our_own_bert_graph_computes_what_optimums_does(tmp_path: Path, classify: bool) -> None:
    folder = (tiny_classifier_dir if classify else tiny_encoder_dir)(tmp_path / "model")
    export = export_onnx(folder, tmp_path / "onnx", run=perform)
    assert export.has_tokenizer
    assert export.task == ("text-classification" if classify else "sentence-similarity")
    session, own = open_graph(export.graph), _own(folder, classify=classify)
    for feeds in [*batches(VOCABULARY, 0), *_text_batches(tmp_path / "onnx", TEXTS)]:
        assert difference(run(session, feeds), run(own, feeds), feeds) <= TOLERANCE


@pytest.fixture
def minilm(minilm_dir: Path, tmp_path: Path) -> tuple[Path, OnnxExport]:
    return minilm_dir, export_onnx(minilm_dir, tmp_path / "onnx", run=perform)


@pytest.mark.model
def test_minilm_computes_what_transformers_and_our_own_graph_do(
    minilm: tuple[Path, OnnxExport],
) -> None:
    folder, export = minilm
    model = transformers.AutoModel.from_pretrained(folder).eval()
    session, own = open_graph(export.graph), _own(folder, classify=False)
    for feeds in _text_batches(export.folder, [*TEXTS, " ".join(TEXTS) * 9]):
        states = torch.from_numpy(expected(model, feeds))
        mask = torch.from_numpy(feeds["attention_mask"])[:, :, None]
        pooled = (states * mask).sum(1) / mask.sum(1)
        wanted = torch.nn.functional.normalize(pooled, dim=-1).numpy()
        found = run(session, feeds)
        assert difference(found, wanted, feeds) <= TOLERANCE
        assert difference(found, run(own, feeds), feeds) <= TOLERANCE
    assert json.loads((export.folder / "1_Pooling" / "config.json").read_text())
