"""Mixed precision under an accuracy budget: which blocks to keep, tried, timed and confirmed."""
