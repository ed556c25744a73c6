"""What the development server loads in the place of Triton's ONNX Runtime backend."""
