"""Statistical tests and intervals on plain numbers: paired outcomes of images, times of whole runs."""
