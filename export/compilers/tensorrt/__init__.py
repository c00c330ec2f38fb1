"""TensorRT and TensorRT-RTX: parse, configure, build, and read what was built."""
