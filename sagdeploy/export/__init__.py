"""From PyTorch to ONNX graphs in a Triton model repository."""
