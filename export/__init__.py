"""From an eager module to checked ONNX variants and compiled engines."""
