"""One sandboxed process per served model version, and what looks after it."""
