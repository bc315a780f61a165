"""Shared helpers of the tests: generated models and other fixtures in code."""
