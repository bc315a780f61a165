"""Errors of private text generation.

    CasemateError
    ├── UsageError, PrivacyError    what was asked for cannot be given (trainer.privacy.errors)
    └── SynthesisError              samples that cannot be written, or that break their claim

No message holds a text, a prompt or a part of either.
"""

from __future__ import annotations

from security.errors import CasemateError


class SynthesisError(CasemateError):
    """Samples cannot be written, or they and their claim do not belong together."""
