"""Checkpoints: what a run resumes from, and what it hands on.

`checkpointer` saves and restores the state of a run (weights, optimizer, progress) with
`tensors` (what is kept, by name), `storage` (torch's distributed checkpoint, tensors
only), `state_file` (the JSON beside them) and `layout` (folders, retention). `export`
writes the finished model, and `record` its origin: docs/formats/checkpoint.md.
"""
