"""A GGUF writer with no scruples: it writes whatever it is told, valid or not.

`valid()` is the smallest model that the pre-parser accepts; a bad file is that one
with a single defect. The lengths and counts that a defect needs can be overridden.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B"}
_CODES |= {U64: "Q", I64: "q", F64: "d"}

WIDTH, INNER, HEADS, BLOCKS, CONTEXT = 32, 32, 2, 1, 64


def string(value: bytes, length: int | None = None) -> bytes:
    """A string, with a length that may lie."""
    return struct.pack("<Q", len(value) if length is None else length) + value


def array(kind: int, values: list[Any], count: int | None = None) -> bytes:
    """An array's element type, count (which may lie) and elements."""
    head = struct.pack("<IQ", kind, len(values) if count is None else count)
    if kind == STRING:
        return head + b"".join(string(value) for value in values)
    return head + struct.pack(f"<{len(values)}{_CODES[kind]}", *values)


@dataclass
class Tensor:
    name: bytes
    dimensions: tuple[int, ...]
    type: int = 0
    offset: int | None = None

    @property
    def size_bytes(self) -> int:
        elements = 1
        for dimension in self.dimensions:
            elements *= dimension
        return 4 * elements


@dataclass
class Forge:
    """A GGUF file in parts; `encode` puts them together as they are."""

    pairs: dict[bytes, tuple[int, bytes]]
    tensors: list[Tensor]
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    pair_count: int | None = None
    extra_pairs: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    trailing: bytes = b""
    cut: int | None = None
    alignment: int = 32

    def set(self, key: str, kind: int, value: Any) -> None:
        """Set a key to a scalar, a string, or (kind ARRAY) to encoded bytes."""
        if kind == STRING:
            encoded = string(value if isinstance(value, bytes) else value.encode())
        elif kind == ARRAY:
            encoded = value
        else:
            encoded = struct.pack("<" + _CODES[kind], value)
        self.pairs[key.encode()] = (kind, encoded)

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def encode(self) -> bytes:
        pairs = [(key, *value) for key, value in self.pairs.items()] + self.extra_pairs
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        pair_count = len(pairs) if self.pair_count is None else self.pair_count
        out = bytearray(self.magic)
        out += struct.pack("<IQQ", self.version, tensor_count, pair_count)
        for key, kind, encoded in pairs:
            out += string(key) + struct.pack("<I", kind) + encoded
        offset = 0
        for tensor in self.tensors:
            place = offset if tensor.offset is None else tensor.offset
            out += string(tensor.name) + struct.pack("<I", len(tensor.dimensions))
            out += struct.pack(f"<{len(tensor.dimensions)}Q", *tensor.dimensions)
            out += struct.pack("<IQ", tensor.type, place & (2**64 - 1))
            offset = self._aligned(offset + tensor.size_bytes)
        out += bytes(self._aligned(len(out)) - len(out))
        # Data is all zeros; absurd tensors get none.
        out += bytes(offset if offset < 1 << 24 else 0)
        out += self.trailing
        return bytes(out[: self.cut])

    def _aligned(self, value: int) -> int:
        return -(-value // self.alignment) * self.alignment


def tokens() -> list[bytes]:
    """Three specials and all byte tokens."""
    return [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]


def types() -> list[int]:
    return [2, 3, 3, *[6] * 256]


def valid() -> Forge:
    """The smallest acceptable model: one block, 259 tokens, F32."""
    forge = Forge({}, [])
    forge.set("general.architecture", STRING, "llama")
    for name, value in {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": BLOCKS,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "rope.dimension_count": WIDTH // HEADS,
    }.items():
        forge.set(f"llama.{name}", U32, value)
    forge.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    forge.set("tokenizer.ggml.model", STRING, "llama")
    vocabulary = tokens()
    forge.set("tokenizer.ggml.tokens", ARRAY, array(STRING, vocabulary))
    forge.set("tokenizer.ggml.scores", ARRAY, array(F32, [0.0] * len(vocabulary)))
    forge.set("tokenizer.ggml.token_type", ARRAY, array(I32, types()))
    forge.set("tokenizer.ggml.bos_token_id", U32, 1)
    forge.set("tokenizer.ggml.eos_token_id", U32, 2)
    shapes = {"attn_norm": (WIDTH,), "ffn_norm": (WIDTH,)}
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    block = [Tensor(f"blk.0.{n}.weight".encode(), shape) for n, shape in shapes.items()]
    block += [Tensor(f"blk.0.{n}.weight".encode(), (WIDTH, WIDTH)) for n in square]
    embedding = Tensor(b"token_embd.weight", (WIDTH, len(vocabulary)))
    forge.tensors = [embedding, *block, Tensor(b"output_norm.weight", (WIDTH,))]
    return forge


def as_descriptor(data: bytes) -> int:
    """Return a descriptor of a memory file that holds `data`, as an appliance uses."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return descriptor
