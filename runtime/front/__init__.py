"""The gRPC front: one chain of stages for every call."""
