"""From a traced program to ONNX, in names that readers know and operators that every backend takes alike."""
