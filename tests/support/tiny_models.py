"""Tiny models made from a seed, so that tests run real engines without a download.

Each function writes one model and returns its path. The weights are random, so the
answers are nonsense, but they are the same nonsense on every run and every machine:
nothing here reads a clock, an environment variable or an unseeded generator.
Nothing here needs torch.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

GGUF_EMBEDDING = 64
GGUF_LAYERS = 2
GGUF_HEADS = 4
GGUF_FEED_FORWARD = 128
GGUF_CONTEXT = 512

ENCODER_HIDDEN = 64
ENCODER_LAYERS = 2
ENCODER_HEADS = 4
ENCODER_POSITIONS = 128
CLASSIFIER_LABELS = ("negative", "neutral", "positive")

_SPECIALS = ("<unk>", "<s>", "</s>")
_TOKEN_NORMAL, _TOKEN_UNKNOWN, _TOKEN_CONTROL, _TOKEN_BYTE = 1, 2, 3, 6


def gguf_vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Return the tokens, scores and types of `tiny_gguf`: specials, bytes, letters."""
    pieces = ["▁", *string.ascii_lowercase, "▁a", "▁t", "th", "▁th", "▁the", "in", "er", "on"]
    tokens = [*_SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [_TOKEN_UNKNOWN, _TOKEN_CONTROL, _TOKEN_CONTROL, *[_TOKEN_BYTE] * 256]
    types += [_TOKEN_NORMAL] * len(pieces)
    scores = [0.0] * (len(_SPECIALS) + 256) + [-float(rank) for rank in range(1, len(pieces) + 1)]
    return tokens, scores, types


def tiny_gguf(path: Path, *, seed: int = 0) -> Path:
    """Write a llama-architecture GGUF (F32, about 0.5 MB) that llama.cpp loads and decodes.

    Context 512, 2 layers, a vocabulary of about 300 tokens with every byte token,
    `<s>` is put before each text.
    """
    import gguf

    random = np.random.default_rng(seed)
    tokens, scores, types = gguf_vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(GGUF_CONTEXT)
    writer.add_embedding_length(GGUF_EMBEDDING)
    writer.add_block_count(GGUF_LAYERS)
    writer.add_feed_forward_length(GGUF_FEED_FORWARD)
    writer.add_head_count(GGUF_HEADS)
    writer.add_head_count_kv(GGUF_HEADS)
    writer.add_rope_dimension_count(GGUF_EMBEDDING // GGUF_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    for name, array in _gguf_tensors(random, len(tokens)).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_tensors(random: np.random.Generator, vocabulary: int) -> dict[str, Array]:
    width, inner = GGUF_EMBEDDING, GGUF_FEED_FORWARD
    tensors = {"token_embd.weight": _normal(random, vocabulary, width)}
    for layer in range(GGUF_LAYERS):
        block = f"blk.{layer}."
        tensors[block + "attn_norm.weight"] = np.ones(width, np.float32)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{block}{name}.weight"] = _normal(random, width, width, scale=width**-0.5)
        tensors[block + "ffn_norm.weight"] = np.ones(width, np.float32)
        tensors[block + "ffn_gate.weight"] = _normal(random, inner, width, scale=width**-0.5)
        tensors[block + "ffn_up.weight"] = _normal(random, inner, width, scale=width**-0.5)
        tensors[block + "ffn_down.weight"] = _normal(random, width, inner, scale=inner**-0.5)
    tensors["output_norm.weight"] = np.ones(width, np.float32)
    tensors["output.weight"] = _normal(random, vocabulary, width, scale=2 * width**-0.5)
    return tensors


def _normal(random: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (random.standard_normal(shape) * scale).astype(np.float32)


def tiny_encoder_dir(path: Path, *, seed: int = 0) -> Path:
    """Write a 2-layer BERT in sentence-transformers layout: mean pooling, normalized.

    Hidden size 64; `config.json`, `model.safetensors`, `tokenizer.json`,
    `modules.json`, `1_Pooling/config.json`; no ONNX and no pickle.
    """
    vocabulary = _write_tokenizer(path)
    _write_bert(path, vocabulary, seed, architecture="BertModel", labels=())
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]
    modules.append(("2", "2_Normalize", "Normalize"))
    _write_json(
        path / "modules.json",
        [
            {"idx": i, "name": n, "path": p, "type": f"sentence_transformers.models.{kind}"}
            for i, (n, p, kind) in enumerate(modules)
        ],
    )
    (path / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": ENCODER_HIDDEN, "pooling_mode_mean_tokens": True}
    _write_json(path / "1_Pooling" / "config.json", pooling | {"pooling_mode_cls_token": False})
    _write_json(path / "sentence_bert_config.json", {"max_seq_length": 96})
    return path


def tiny_classifier_dir(path: Path, *, seed: int = 0) -> Path:
    """Write a 2-layer BERT with a sequence classification head and three labels."""
    vocabulary = _write_tokenizer(path)
    _write_bert(
        path,
        vocabulary,
        seed,
        architecture="BertForSequenceClassification",
        labels=CLASSIFIER_LABELS,
    )
    return path


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_tokenizer(path: Path) -> int:
    """Write `tokenizer.json` (WordPiece, lower case); return the vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    path.mkdir(parents=True, exist_ok=True)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = string.ascii_lowercase + string.digits
    words = "the a of to and in is it you that he was for on are with as his they be at one have"
    words += " this from or had by hot but some what there we can out other were all your when"
    words += " cat dog king queen river bank money house good bad model vector"
    pieces = [*string.punctuation, *characters, *(f"##{c}" for c in characters), *words.split()]
    entries = list(dict.fromkeys([*specials, *pieces]))
    vocabulary = {piece: number for number, piece in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(path / "tokenizer.json"))
    return len(entries)


def _write_bert(
    path: Path, vocabulary: int, seed: int, *, architecture: str, labels: tuple[str, ...]
) -> None:
    from safetensors.numpy import save_file

    config: dict[str, object] = {
        "architectures": [architecture],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": ENCODER_HIDDEN,
        "intermediate_size": 2 * ENCODER_HIDDEN,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": ENCODER_POSITIONS,
        "num_attention_heads": ENCODER_HEADS,
        "num_hidden_layers": ENCODER_LAYERS,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": vocabulary,
    }
    if labels:
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    _write_json(path / "config.json", config)
    tensors = _bert_tensors(np.random.default_rng(seed), vocabulary)
    if labels:
        tensors = {f"bert.{name}": array for name, array in tensors.items()}
        head = np.random.default_rng(seed + 1)
        tensors["classifier.weight"] = _normal(head, len(labels), ENCODER_HIDDEN)
        tensors["classifier.bias"] = _normal(head, len(labels), scale=0.1)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _bert_tensors(random: np.random.Generator, vocabulary: int) -> dict[str, Array]:
    width = ENCODER_HIDDEN
    tensors: dict[str, Array] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[name + ".weight"] = _normal(random, outputs, inputs, scale=inputs**-0.5)
        tensors[name + ".bias"] = _normal(random, outputs, scale=0.1)

    def norm(name: str) -> None:
        tensors[name + ".weight"] = 1 + _normal(random, width, scale=0.1)
        tensors[name + ".bias"] = _normal(random, width, scale=0.1)

    sizes = {"word": vocabulary, "position": ENCODER_POSITIONS, "token_type": 2}
    for name, rows in sizes.items():
        tensors[f"embeddings.{name}_embeddings.weight"] = _normal(random, rows, width)
    norm("embeddings.LayerNorm")
    for layer in range(ENCODER_LAYERS):
        block = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            linear(f"{block}attention.self.{name}", width, width)
        linear(block + "attention.output.dense", width, width)
        norm(block + "attention.output.LayerNorm")
        linear(block + "intermediate.dense", 2 * width, width)
        linear(block + "output.dense", width, 2 * width)
        norm(block + "output.LayerNorm")
    linear("pooler.dense", width, width)
    return tensors


def tiny_onnx(path: Path, *, seed: int = 0) -> Path:
    """Write a tensor graph `y = relu(x @ w + b)`: x FP32 [-1, 4] to y FP32 [-1, 3]."""
    from onnx import TensorProto, helper, numpy_helper, save_model

    random = np.random.default_rng(seed)
    weights = numpy_helper.from_array(_normal(random, 4, 3), "w")
    bias = numpy_helper.from_array(_normal(random, 3), "b")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        initializer=[weights, bias],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="casemate"
    )
    save_model(model, str(path))
    return path
