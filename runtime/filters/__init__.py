"""Text rules: normalising, matching, redacting, and holding a stream back."""
