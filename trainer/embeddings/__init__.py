"""Word embeddings: skip-gram with negative sampling (Mikolov et al. 2013), in native code.

`session` runs a recipe; `corpus` turns text into ids on disk; `vocabulary` holds what the
counts of words decide; `training` makes the passes with threads; `vectors` is the
checkpoint and its nearest neighbours; `state` is what an interrupted run goes on from;
`_sgns` is the inner loop, in C++.
"""
