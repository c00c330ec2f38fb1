"""Tests and intervals, of numbers alone: paired outcomes of images, times of whole runs."""
