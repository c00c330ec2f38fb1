"""Accuracy compared with the reference, image by image, and the gate: PASS, FAIL or INCONCLUSIVE."""
