"""Errors of the compiler.

CasemateError
└── UsageError
    ├── SourceError     what was given cannot become a bundle; says why and what to do
    │   ├── ExportError     an export to ONNX was tried and failed; says in which tool
    │   └── WorkFolderError   a folder to work in that is not the compiler's to work in
    ├── ChildError      a process that does a part of the work died or took too long
    │   └── ChildKilledError   it was killed, which another time it may not be
    ├── PassError       a graph pass is out of order or changed what the graph computes
    ├── TargetError     a target that is unknown, or badly described; names the field
    ├── SearchError     a search that cannot go on: a damaged journal, no time, nothing to try
    │   └── PromiseError    no candidate keeps the promised quality; names the closest
    ├── ReportError     a compilation.json that breaks its format; names the field
    └── QuantizationError  a plan that means nothing, or data that does not fit it
        └── RuinedError     a quantized model answers with values that are no numbers
"""

from __future__ import annotations

from security.errors import UsageError


class SourceError(UsageError):
    """A source cannot become a bundle; the message names the file and the way out."""


class ExportError(SourceError):
    """An exporter gave up or died; the message has its last words."""


class WorkFolderError(SourceError):
    """A folder to work in is somebody else's, or at work; nothing in it was touched."""


class PassError(UsageError):
    """A graph pass is out of order, or changed what the graph computes; names the pass."""


class QuantizationError(UsageError):
    """A quantization plan is not valid, or does not fit the model or the calibration data."""


class RuinedError(QuantizationError):
    """A quantized model gives values that are no finite numbers: nothing can be said of it."""


class TargetError(UsageError):
    """A target is not known or not described as it must be; names the field."""


class SearchError(UsageError):
    """A search cannot start or go on; says why and what to do."""


class PromiseError(SearchError):
    """No candidate keeps the promised quality; names the closest one and its figures."""


class ReportError(UsageError):
    """A record of a compilation is not of its format; names the field."""


class ChildError(UsageError):
    """A process that was to do a part of the work died or took too long; says which and how."""


class ChildKilledError(ChildError):
    """A process was ended by a signal, its time limit or want of memory.

    That may be no fault of what it worked on, so nobody may conclude from it that it never works.
    """
