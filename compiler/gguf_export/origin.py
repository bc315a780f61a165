"""Judge a model directory before anything of it is used.

A checkpoint of the trainer carries `training.json` with the digest of every file; all are
hashed and compared here, so that what is exported is what training wrote. (Signatures are
another matter: `casemate verify CHECKPOINT` checks those.) Any other directory is taken as
it is.
"""

from __future__ import annotations

from pathlib import Path

from compiler.errors import SourceError
from compiler.files import PICKLED
from security.bundle.opening import DEFAULT_LIMITS
from security.bundle.tree import list_tree, opened_root
from security.checkpoint.verifying import examine, is_checkpoint, read_files
from security.signing.names import SIGNATURE_NAMES


def check_origin(folder: Path) -> None:
    """Refuse what is no model directory, and a checkpoint that is not what training wrote.

    Raises:
        SourceError: no directory.
        BundleError: a checkpoint breaks a rule of docs/formats/checkpoint.md.
    """
    if PICKLED.fullmatch(folder.name):
        raise SourceError(
            f"{folder}: pickled weights can run code when they are read and are never opened; "
            "convert them to safetensors"
        )
    if not folder.is_dir():
        raise SourceError(
            f"{folder}: is no directory; give one with config.json, tokenizer.json and safetensors"
        )
    if not is_checkpoint(folder):
        return
    with opened_root(folder) as root_fd:
        names = list_tree(root_fd, DEFAULT_LIMITS, None) - SIGNATURE_NAMES
        files = read_files(root_fd, names, DEFAULT_LIMITS)
    examine(files)
