"""Every bound that the pre-parsers enforce, with its unit in its name.

The defaults admit every model this appliance is meant for with room to spare; a
limit is never taken from the file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class _Limits:
    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field.name} must be a positive whole number, not {value!r}")


@dataclass(frozen=True, slots=True)
class GgufLimits(_Limits):
    """Bounds on a GGUF file."""

    max_file_bytes: int = 64 << 30
    max_header_bytes: int = 64 << 20
    max_pairs: int = 1024
    max_key_bytes: int = 256
    max_string_bytes: int = 4 << 20
    max_array_elements: int = 1 << 20
    max_array_bytes: int = 32 << 20
    # Bounds time and memory: about 0.2 microseconds and 50 bytes each.
    max_total_elements: int = 1 << 21
    max_token_bytes: int = 4096
    max_tensors: int = 8192
    # GGML_MAX_NAME is 64 and counts the closing NUL.
    max_tensor_name_bytes: int = 63
    # GGML_MAX_DIMS.
    max_dimensions: int = 4
    max_tensor_elements: int = 1 << 40
    max_alignment_bytes: int = 1 << 16
    # LLAMA_MAX_LAYERS.
    max_blocks: int = 512
    max_heads: int = 1024
    max_width: int = 1 << 20
    max_context_tokens: int = 1 << 24


@dataclass(frozen=True, slots=True)
class OnnxLimits(_Limits):
    """Bounds on an ONNX file."""

    # Protobuf's own limit on a message: a larger model needs external data.
    max_file_bytes: int = (2 << 30) - 1
    max_graph_depth: int = 4
    max_nodes: int = 10_000
    max_attributes_per_node: int = 64
    max_node_inputs: int = 4096
    max_name_bytes: int = 1024
    max_string_bytes: int = 1 << 20
    max_initializers: int = 20_000
    max_dimensions: int = 16
    max_tensor_elements: int = 1 << 31
    max_list_bytes: int = 16 << 20
    max_inputs: int = 256
    max_metadata_entries: int = 256
    max_opset_imports: int = 16
    # Bounds the time: about a microsecond each.
    max_fields: int = 200_000
