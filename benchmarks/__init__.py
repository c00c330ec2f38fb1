"""Measuring: latency, accuracy, and the reports that show both."""
