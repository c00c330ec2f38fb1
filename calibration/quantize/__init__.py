"""INT8 variants: where pairs stand, with which ranges, and how weights are rounded."""
