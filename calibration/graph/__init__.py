"""What an ONNX graph of a network says: layers, channels, Q/DQ pairs; and what the dialects demand of it."""
