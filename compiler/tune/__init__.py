"""The search for the form of a model that is fastest within a promised quality.

`space` and `onnx_space` say what can be tried, `bench` what a backend must be able to do
(`gguf_bench` with llama.cpp, `onnx_bench` with ONNX Runtime), `search` spends the time,
`journal` remembers what was measured, `pareto` and `choose` judge it, `predict` (with
`gguf_predict` and `onnx_predict`) stands in for the clock where the target is another machine.
"""
