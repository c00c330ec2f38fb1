"""Statistics of the calibration images: histograms, ranges, and the equalization based on them."""
