"""Quantization of ONNX graphs by plan.

`plan` says what is wanted, `quantize` makes the file, `sensitivity` finds the tensors that
cost the most quality and the plan that spares them.
"""
