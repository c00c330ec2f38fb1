"""Runs of `bench` beside earlier ones: read back, gone on with, and checked for a slowdown."""
