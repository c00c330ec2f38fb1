"""What calibration images show: histograms, ranges, and networks equalized by them."""
