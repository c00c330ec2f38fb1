"""From the eager module to a bundle with its FP32 variant, and whether the module can be a reference at all."""
