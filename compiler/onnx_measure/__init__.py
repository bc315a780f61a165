"""Speed and quality of ONNX graphs, each measured in a process of its own."""
