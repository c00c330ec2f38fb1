"""INT8 from elsewhere: foreign Q/DQ files and TensorRT calibration caches."""
