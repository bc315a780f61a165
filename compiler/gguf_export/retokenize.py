"""Write the tokenizer of a converted GGUF anew, everything else as it was.

llama.cpp's converter guesses at tokenizers. Where there is a tokenizer.json of SentencePiece's
kind and no tokenizer.model it gives every token the same score, so that llama.cpp merges
from left to right; others it frames in other tokens than the source does. Where our own reader
can say exactly what the source's tokenizer is, that is written in the place of the guess. Whether
llama.cpp then gives the source's tokens is for `parity` to prove, as ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gguf

from compiler.gguf_export.vocabulary import Vocabulary
from compiler.gguf_export.writing import add_vocabulary, sync

ANEW_NOTE: Final = (
    "the converter's tokenizer gives other tokens than the source's, so it was written anew"
)
_OURS: Final = ("GGUF.", "tokenizer.")


def replace_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Give the GGUF at `path` another tokenizer; it is changed whole or not at all.

    Args:
        path: a GGUF that the pre-parser has let pass.
        vocabulary: of as many tokens as the file's embedding has rows.

    Raises:
        OSError: the file cannot be written.
    """
    anew = path.with_name(f"{path.name}.anew")
    try:
        _write(gguf.GGUFReader(path), anew, vocabulary)
        anew.replace(path)
    finally:
        anew.unlink(missing_ok=True)


def _write(source: gguf.GGUFReader, out: Path, vocabulary: Vocabulary) -> None:
    architecture = source.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(out, architecture)
    try:
        for field in source.fields.values():
            # The writer has stated the architecture itself.
            if field.name.startswith(_OURS) or field.name == gguf.Keys.General.ARCHITECTURE:
                continue
            kind, *inner = field.types
            of = inner[-1] if inner else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=of)
        add_vocabulary(writer, vocabulary)
        for tensor in source.tensors:
            data = tensor.data
            writer.add_tensor_info(
                tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in source.tensors:
            writer.write_tensor_data(tensor.data)
        sync(writer)
    finally:
        writer.close()
