"""Read model files as hostile bytes, before any native parser sees them.

llama.cpp and ONNX Runtime are large C++ parsers with a history of memory errors on
crafted files. The functions here decide, in pure Python, whether a file is one that
those parsers may be given. They

- refuse everything that is not on a deliberate list (architectures, tensor types,
  operator domains, hyperparameters), rather than look for what is known to be bad;
- check every count, length and offset before it is used, so that time and memory
  are bounded by `limits` and not by what the file says;
- read headers through a memory map of the descriptor that was verified: the weights
  are neither copied nor interpreted, and nothing is opened by name.

Only `security.errors.UnsafeModelError` leaves these functions, whatever the bytes.
Passing is necessary, not sufficient: the parsers still run in the sandboxed worker.

    check_gguf(fd, size) -> GgufSummary
    check_onnx(fd, size) -> OnnxSummary
"""

from __future__ import annotations

from security.preparse.gguf import check_gguf
from security.preparse.onnx import check_onnx
from security.preparse.summary import GgufSummary, OnnxSummary, OnnxValue

__all__ = ["GgufSummary", "OnnxSummary", "OnnxValue", "check_gguf", "check_onnx"]
