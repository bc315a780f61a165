"""Developers' tools: not installed, not part of the product."""
