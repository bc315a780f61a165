"""Write a GGUF file, one block of rows at a time.

The same model gives the same bytes: keys and tensors come in the order of the plan, and
nothing of the machine, the time or the folder's name is written. Never more than a block
of a tensor is in memory.

Vectors are float32, as llama.cpp wants them. A matrix whose rows cannot be cut into
blocks of the quantized type is float16 instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import gguf
import numpy as np
from gguf.quants import quantize
from numpy.typing import NDArray

from compiler.bundling.plan import Report
from compiler.errors import SourceError
from compiler.gguf_export.model import ModelPlan, TensorPlan
from compiler.gguf_export.vocabulary import Vocabulary
from compiler.weights.reading import Weights

_TYPES: Final[Mapping[str, tuple[gguf.GGMLQuantizationType, gguf.LlamaFileType]]] = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
# Q8_0 keeps a float16 scale for numbers up to 127.
_LARGEST: Final[Mapping[gguf.GGMLQuantizationType, float]] = {
    gguf.GGMLQuantizationType.F16: 65504.0,
    gguf.GGMLQuantizationType.Q8_0: 127 * 65504.0,
}
_ROPE_FREQS: Final = "rope_freqs.weight"
_BLOCK_BYTES: Final = 8 << 20
_F32_BYTES: Final = 4


def write_gguf(
    path: Path,
    model: ModelPlan,
    vocabulary: Vocabulary,
    weights: Weights,
    *,
    dtype: str,
    report: Report,
) -> None:
    """Write the new file `path` and flush it to the disk.

    Raises:
        SourceError: a value is not finite, or too large for `dtype`.
        OSError: the file cannot be written.
    """
    kind, file_type = _TYPES[dtype]
    writer = gguf.GGUFWriter(path, model.architecture)
    try:
        _add_model(writer, model, file_type)
        add_vocabulary(writer, vocabulary)
        types = {tensor.name: _type_of(tensor, kind) for tensor in model.tensors}
        if model.divisors is not None:
            shape = model.divisors.shape
            writer.add_tensor_info(_ROPE_FREQS, shape, np.dtype(np.float32), model.divisors.nbytes)
        for tensor in model.tensors:
            _add_info(writer, tensor, types[tensor.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if model.divisors is not None:
            _write_tensor(writer, iter([model.divisors]))
        total, done = sum(_elements(tensor) for tensor in model.tensors), 0
        for tensor in model.tensors:
            _write_tensor(writer, _blocks(tensor, weights, types[tensor.name]))
            before, done = done, done + _elements(tensor)
            if 100 * done // total > 100 * before // total:
                report(f"writing the weights: {100 * done // total}%")
        sync(writer)
    finally:
        writer.close()


def _add_model(writer: gguf.GGUFWriter, model: ModelPlan, file_type: gguf.LlamaFileType) -> None:
    prefix = f"{model.architecture}."
    writer.add_file_type(int(file_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, count in model.counts.items():
        writer.add_uint32(prefix + name, count)
    for name, real in model.reals.items():
        writer.add_float32(prefix + name, real)
    for name, word in model.words.items():
        writer.add_string(prefix + name, word)


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    """State a vocabulary."""
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    for name, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.add_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _elements(tensor: TensorPlan) -> int:
    return int(np.prod(tensor.shape))


def _type_of(tensor: TensorPlan, kind: gguf.GGMLQuantizationType) -> gguf.GGMLQuantizationType:
    if len(tensor.shape) == 1:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if tensor.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _add_info(writer: gguf.GGUFWriter, tensor: TensorPlan, kind: gguf.GGMLQuantizationType) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    row_bytes = tensor.shape[-1] // block * size
    rows = _elements(tensor) // tensor.shape[-1]
    # The writer takes a quantized shape in bytes and undoes it.
    floats = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
    if kind in floats:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(floats[kind]), rows * row_bytes)
    else:
        shape = (*tensor.shape[:-1], row_bytes)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), rows * row_bytes, kind)


def _blocks(
    tensor: TensorPlan, weights: Weights, kind: gguf.GGMLQuantizationType
) -> Iterator[NDArray[np.generic]]:
    """Yield a tensor in the type of the file, some rows at a time."""
    stored = weights.tensors[tensor.source]
    order = tensor.row_order
    rows = tensor.shape[0]
    row_bytes = _F32_BYTES * _elements(tensor) // rows
    step = max(1, _BLOCK_BYTES // row_bytes)
    for begin in range(0, rows, step):
        part = slice(begin, begin + step)
        values = stored.rows(part if order is None else order[part])
        if tensor.add_one:
            values = values + np.float32(1)
        if np.abs(values).max(initial=0.0) > _LARGEST.get(kind, np.inf):
            raise SourceError(
                f"{stored.path}: {stored.name!r} holds values beyond the range of {kind.name}; "
                "export it as bf16 or f32"
            )
        yield quantize(values, kind)


def _write_tensor(writer: gguf.GGUFWriter, blocks: Iterator[NDArray[np.generic]]) -> None:
    file = _file_of(writer)
    begin = file.tell()
    writer.write_padding(file, begin)
    begin = file.tell()
    for block in blocks:
        file.write(block.tobytes())
    writer.write_padding(file, file.tell() - begin)


def _file_of(writer: gguf.GGUFWriter) -> BinaryIO:
    """Return the one file of a writer that has written its header."""
    files = writer.fout or []
    if len(files) != 1:
        raise SourceError("the GGUF writer would split the file")
    file: BinaryIO = files[0]
    return file


def sync(writer: gguf.GGUFWriter) -> None:
    """Flush what was written to the disk."""
    file = _file_of(writer)
    file.flush()
    os.fsync(file.fileno())
