"""Calibration and quantization: image data, ranges measured once, Q/DQ rendered for a target."""
