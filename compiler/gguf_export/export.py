"""Export a directory of safetensors to GGUF.

(see the package)
"""

from __future__ import annotations

from pathlib import Path

from compiler.bundling.plan import Report
from compiler.errors import SourceError
from compiler.gguf_export.result import GgufExport


def export_gguf(
    source: Path, out: Path, *, dtype: str = "f16", report: Report, converter: Path | None = None
) -> GgufExport:
    """Write the model in the directory `source` to the new GGUF file `out`.

    Args:
        source: a Hugging Face directory or a checkpoint of the trainer; a checkpoint is
            verified against its training.json first.
        out: the file to make; it must not exist. A failure leaves nothing there.
        dtype: of the matrices: "f16", "f32", "bf16" or "q8_0".
        report: is told what is going on.
        converter: llama.cpp's convert_hf_to_gguf.py or its source tree, for architectures
            that are not exported here; None looks at CASEMATE_LLAMA_CPP.

    Raises:
        SourceError: the source cannot be exported; says which file and what to do.
        CheckpointError: a checkpoint's files are not those of its record.
        UnsafeModelError: the pre-parser refuses what was made.
        OSError: the target cannot be written.
    """
    raise SourceError(f"{source}: exporting to GGUF is not finished")
