"""Errors of the export to ONNX.

CasemateError
└── UsageError
    └── SourceError         the source cannot be exported: what it lacks, or is
        └── ExportError     the export was tried and failed; says in which tool
"""

from __future__ import annotations

from compiler.errors import SourceError


class ExportError(SourceError):
    """An exporter gave up or died; the message has its last words."""
