"""What a pre-parser learned about a model file; plain values, no bytes of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# An f16 key-value cache holds two bytes an element.
_CACHE_ELEMENT_BYTES = 2


@dataclass(frozen=True, slots=True)
class GgufSummary:
    """Facts of a GGUF file that passed.

    Attributes:
        version: the format's version, 2 or 3.
        architecture: as llama.cpp names it, for instance "gemma3".
        name: `general.name`, or None.
        license: `general.license`, or None.
        context_tokens: the context that the model was trained for.
        embedding_length: width of the residual stream.
        block_count: transformer blocks.
        head_count: attention heads of a block.
        head_count_kv: key-value heads of a block.
        key_length: elements of one key head.
        value_length: elements of one value head.
        vocabulary_size: tokens, and rows of the embedding.
        tokenizer_model: "llama" (SentencePiece) or "gpt2" (byte-level BPE).
        bos: text of the beginning-of-sequence token, or None.
        eos: text of the end-of-sequence token, or None.
        add_bos: whether the tokenizer puts `bos` before a text; None when unsaid.
        chat_template: the template inside the file, or None. Reported so that it can
            be copied into a signed manifest on request; never rendered from here.
        tensor_types: how many tensors there are of each type name.
        tensor_count: tensors in all.
        parameter_count: elements in all tensors.
        header_bytes: where the tensor data begins.
    """

    version: int
    architecture: str
    name: str | None
    license: str | None
    context_tokens: int
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: int
    key_length: int
    value_length: int
    vocabulary_size: int
    tokenizer_model: str
    bos: str | None
    eos: str | None
    add_bos: bool | None
    chat_template: str | None
    tensor_types: Mapping[str, int]
    tensor_count: int
    parameter_count: int
    header_bytes: int

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes that one token takes in an f16 key-value cache without a window."""
        elements = self.head_count_kv * (self.key_length + self.value_length)
        return self.block_count * elements * _CACHE_ELEMENT_BYTES


@dataclass(frozen=True, slots=True)
class OnnxValue:
    """One declared input or output of a graph.

    Attributes:
        name: as the graph names it.
        dtype: "FP32", "FP16", "INT64", "BOOL", "BYTES" ...: the names of the Open
            Inference Protocol.
        shape: each dimension as a size, or as the name of a dynamic dimension
            ("" when it has none); None when the file declares no shape.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True, slots=True)
class OnnxSummary:
    """Facts of an ONNX file that passed.

    Attributes:
        ir_version: version of the file format.
        opsets: operator-set version by domain ("" is ai.onnx).
        producer: name of the tool that wrote it; may be empty.
        inputs: declared inputs, without those that an initializer provides.
        outputs: declared outputs.
        operators: how often each operator is used, as "domain:name" ("name" for ai.onnx).
        node_count: nodes, those of subgraphs included.
        initializer_count: constant tensors, those in attributes and subgraphs included.
        parameter_count: elements in all constant tensors.
    """

    ir_version: int
    opsets: Mapping[str, int]
    producer: str
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    operators: Mapping[str, int]
    node_count: int
    initializer_count: int
    parameter_count: int
