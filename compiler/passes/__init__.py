"""Passes over ONNX graphs: one file each, each with what it needs and ensures.

A pass takes a model that has its needs and returns one that computes the same and has
what it ensures besides. `compiler.passes.manager` orders them, runs them, and checks
after each that the graph is still valid and gives the same numbers.
"""
