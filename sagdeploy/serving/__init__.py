"""Where the graphs run: ONNX Runtime in process, or a Triton server."""
