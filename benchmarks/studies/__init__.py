"""Run by hand, `python -m resnetrt.benchmarks.studies.NAME`: what the documented numbers rest on."""
