"""Samples and their claim on the disk: both, or neither.

    1. Texts are written into a file beside, which nobody takes for the result.
    2. At the end it is flushed and linked to its name; a name that is taken is left alone.
    3. The claim is created beside it, and the folder flushed.

A crash in 1 leaves a stray `.NAME.*.partial`; between 2 and 3 samples without a claim,
which `check_samples` refuses. An error that can be caught, such as a full disk, leaves
nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from security.errors import UsageError
from security.files import PUBLIC_MODE, create_exclusive, sync_folder
from trainer.privacy.synthesis.errors import SynthesisError
from trainer.privacy.synthesis.record import record_path

_PRIVATE_MODE: Final = 0o600


def check_output(path: Path) -> None:
    """Check that samples can be written to a path, before hours are spent on them.

    Raises:
        UsageError: there is something there already, or no folder.
    """
    for taken in (path, record_path(path)):
        if taken.exists() or taken.is_symlink():
            raise UsageError(f"{taken} exists; samples replace nothing: take another name")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder; make it first")


class SampleFile:
    """A file of samples while it is written; a context manager.

    Attributes:
        bytes: written so far.

    Args:
        path: where it will lie.

    Raises:
        UsageError: as `check_output`.
        SynthesisError: the disk refused.
    """

    def __init__(self, path: Path) -> None:
        check_output(path)
        self.path = path
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        self._file: BinaryIO = self._open()

    def _open(self) -> BinaryIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.fdopen(os.open(self._partial, flags, _PRIVATE_MODE), "wb")
        except OSError as error:
            raise self._refused(error) from error

    @property
    def sha256(self) -> str:
        """Digest of what was written."""
        return self._digest.hexdigest()

    def write(self, line: bytes) -> None:
        """Add a line.

        Raises:
            SynthesisError: the disk refused.
        """
        try:
            self._file.write(line)
        except OSError as error:
            raise self._refused(error) from error
        self._digest.update(line)
        self.bytes += len(line)

    def commit(self, claim: bytes) -> None:
        """Give both files their names, durably.

        Raises:
            SynthesisError: the disk refused, or the name was taken meanwhile; nothing of
                ours is left.
        """
        linked = False
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), PUBLIC_MODE)
            os.fsync(self._file.fileno())
            self._file.close()
            # Unlike a rename, a link replaces nothing.
            os.link(self._partial, self.path)
            linked = True
            create_exclusive(record_path(self.path), claim, PUBLIC_MODE)
            self._partial.unlink()
            sync_folder(self.path.parent)
        except OSError as error:
            if linked:
                self.path.unlink(missing_ok=True)
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> SynthesisError:
        return SynthesisError(
            f"{self.path} cannot be written: {error.strerror}; nothing of it was left"
        )

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What was committed has another name by now.
        try:
            self._file.close()
        except OSError:
            # A full disk shows again when the rest is flushed; it was told already.
            if error is None:
                raise
        finally:
            self._partial.unlink(missing_ok=True)
