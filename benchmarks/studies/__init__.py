"""Simulations and experiments behind the documented numbers: `python -m resnetrt.benchmarks.studies.NAME`."""
