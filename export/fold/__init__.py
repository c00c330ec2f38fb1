"""The module as a graph: what it computes once, what torch translates wrongly, BatchNorm folded into convolutions."""
