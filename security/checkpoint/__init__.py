"""Signed checkpoints: what training hands to the compiler (docs/formats/checkpoint.md).

`layout` says which files may be there, `verifying` checks a signed one, `signing` signs.
The signatures and the reading of directories are those of bundles.
"""
