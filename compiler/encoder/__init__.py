"""Export of text encoders to ONNX, without torch.

Every encoder graph that leaves here has one interface, whatever it was made from:
inputs `input_ids` and `attention_mask`, INT64 [batch, sequence]; one output, either
`embedding` FP32 [batch, dim], pooled and (if the model says so) L2-normalized, or
`logits` FP32 [batch, labels].
"""
