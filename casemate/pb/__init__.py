"""Protobuf messages and gRPC stubs, generated from `proto/` by tools/generate_stubs.py."""
