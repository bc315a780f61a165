"""From a directory of weights to ONNX graphs.

`export.export_onnx` is the way in. Architectures that transformers knows go through
optimum in a process of its own (`optimum_process`); the trainer's recurrent and
convolutional networks and word embeddings are built here from their tensors, without
torch. A BERT encoder may also be built without torch, by `compiler.encoder`.
"""
