"""Which model versions are loaded, which one answers, and how that changes."""
