"""The batches of `evaluate` and `calibrate` on a Ray cluster."""
