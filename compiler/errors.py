"""Errors of the compiler.

CasemateError
└── UsageError
    └── SourceError     what was given cannot become a bundle; says why and what to do
"""

from __future__ import annotations

from security.errors import UsageError


class SourceError(UsageError):
    """A source cannot become a bundle; the message names the file and the way out."""
