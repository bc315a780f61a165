"""The loop: what happens in one update, in one validation, and around them.

`session` assembles a run from a recipe, `training` holds the update, `validation` the
figures between updates, `step` the module that ranks share, `randomness` the seeds.
"""
