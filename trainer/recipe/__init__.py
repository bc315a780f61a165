"""Recipes: everything that decides a run, as validated, frozen values.

`schema` holds the values with their meanings and limits, `parse` reads TOML and
`key=value` overrides into them, `describe` prints them, `ready` are those that ship.
"""
