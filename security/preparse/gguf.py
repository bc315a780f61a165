"""Decide whether a GGUF file may be given to llama.cpp.

Beyond what `gguf_wire`, `gguf_vocab` and `gguf_arch` refuse, this refuses split files,
adapters and projectors, alignments that are no power of two, tensors of other than the
listed types, and any layout but the one: tensors in the order of the header, each at
the next aligned offset, none overlapping, nothing behind the last. A chat template in
the file is reported but never used: the signed manifest has the one that counts.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType

from security.preparse.gguf_arch import ARCHITECTURES, check_shapes, read_hyperparameters
from security.preparse.gguf_types import TENSOR_TYPES
from security.preparse.gguf_vocab import check_vocabulary
from security.preparse.gguf_wire import Array, Header, Scalar, TensorInfo, ValueType, read_header
from security.preparse.limits import GgufLimits
from security.preparse.mapping import mapped
from security.preparse.refuse import refuse, shown
from security.preparse.summary import GgufSummary

DEFAULT_ALIGNMENT_BYTES = 32
_MIN_ALIGNMENT_BYTES = 8
DEFAULT_LIMITS = GgufLimits()


def check_gguf(fd: int, size: int, limits: GgufLimits = DEFAULT_LIMITS) -> GgufSummary:
    """Check the GGUF file behind a descriptor, header only.

    Args:
        fd: a readable descriptor; its offset is neither used nor moved.
        size: the file's size in bytes.
        limits: bounds on counts, lengths and sizes.

    Raises:
        UnsafeModelError: with a stable `reason` for whatever is not acceptable.
    """
    with mapped(fd, size, limits.max_file_bytes) as data:
        # 1. The encoding: counts, lengths, types, unique names.
        header = read_header(data, limits)
        # 2. What kind of file it says it is.
        architecture = _architecture(header.pairs)
        # 3. The vocabulary, then the sizes, which must agree with it.
        vocabulary = check_vocabulary(header.pairs, limits)
        sizes = read_hyperparameters(architecture, header.pairs, vocabulary.size, limits)
        # 4. The tensors: types, sizes and places, then names and shapes.
        parameters = _check_layout(header, size, limits)
        check_shapes(architecture, sizes, {t.name: t.dimensions for t in header.tensors})
    kinds = Counter(TENSOR_TYPES[tensor.type_number].name for tensor in header.tensors)
    return GgufSummary(
        version=header.version,
        architecture=architecture,
        name=_optional_text(header.pairs, "general.name"),
        license=_optional_text(header.pairs, "general.license"),
        context_tokens=sizes.context_length,
        embedding_length=sizes.embedding_length,
        block_count=sizes.block_count,
        head_count=sizes.head_count,
        head_count_kv=sizes.head_count_kv,
        key_length=sizes.key_length,
        value_length=sizes.value_length,
        vocabulary_size=vocabulary.size,
        tokenizer_model=vocabulary.model,
        bos=vocabulary.bos,
        eos=vocabulary.eos,
        add_bos=vocabulary.add_bos,
        chat_template=_optional_text(header.pairs, "tokenizer.chat_template"),
        tensor_types=MappingProxyType(dict(sorted(kinds.items()))),
        tensor_count=len(header.tensors),
        parameter_count=parameters,
        header_bytes=header.end,
    )


def _optional_text(pairs: dict[str, Scalar | Array], key: str) -> str | None:
    item = pairs.get(key)
    if item is None:
        return None
    if not isinstance(item, Scalar) or not isinstance(item.value, str):
        refuse("type-confusion", f"{key} must be a string")
    return item.value


def _architecture(pairs: dict[str, Scalar | Array]) -> str:
    if any(key.startswith("split.") for key in pairs):
        refuse("split-file", "this is one part of a split model; join the parts first")
    kind = _optional_text(pairs, "general.type")
    if kind not in (None, "model"):
        refuse("not-a-model", f"general.type is {shown(kind or '')}, not 'model'")
    architecture = _optional_text(pairs, "general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        refuse("architecture", f"the architecture {shown(architecture or '')} is none of {known}")
    return architecture


def _alignment(pairs: dict[str, Scalar | Array], limits: GgufLimits) -> int:
    item = pairs.get("general.alignment")
    if item is None:
        return DEFAULT_ALIGNMENT_BYTES
    if not isinstance(item, Scalar) or item.type is not ValueType.UINT32:
        refuse("type-confusion", "general.alignment must be an unsigned 32-bit number")
    value = int(item.value)
    if not _MIN_ALIGNMENT_BYTES <= value <= limits.max_alignment_bytes or value & (value - 1):
        refuse("bad-alignment", f"the alignment {value} is no power of two in the allowed range")
    return value


def _check_layout(header: Header, size: int, limits: GgufLimits) -> int:
    """Check the place of every tensor; return the number of parameters."""
    alignment = _alignment(header.pairs, limits)
    start = -(-header.end // alignment) * alignment
    expected = parameters = end = 0
    for tensor in header.tensors:
        elements, length = _tensor_size(tensor, limits)
        if tensor.offset % alignment:
            refuse("misaligned-tensor", f"{shown(tensor.name)} does not begin at an aligned offset")
        if tensor.offset != expected:
            refuse("tensor-offset", f"{shown(tensor.name)} overlaps another or leaves a gap")
        end = start + tensor.offset + length
        if end > size:
            refuse("tensor-beyond-file", f"{shown(tensor.name)} ends beyond the file (truncated?)")
        expected = -(-(tensor.offset + length) // alignment) * alignment
        parameters += elements
    # A writer may pad the last tensor as well; anything more is a stowaway.
    if size > start + expected:
        refuse("trailing-data", f"{size - end} bytes follow the last tensor")
    return parameters


def _tensor_size(tensor: TensorInfo, limits: GgufLimits) -> tuple[int, int]:
    """Return the elements and bytes of a tensor; Python's numbers do not overflow."""
    kind = TENSOR_TYPES.get(tensor.type_number)
    if kind is None:
        refuse("tensor-type", f"{shown(tensor.name)} has the unsupported type {tensor.type_number}")
    elements = 1
    for dimension in tensor.dimensions:
        elements *= dimension
        if not 0 < elements <= limits.max_tensor_elements:
            refuse("tensor-size", f"{shown(tensor.name)} has an impossible size")
    if tensor.dimensions[0] % kind.block_elements:
        refuse(
            "row-size",
            f"rows of {shown(tensor.name)} are no whole number of {kind.name} blocks",
        )
    return elements, elements // kind.block_elements * kind.block_bytes
