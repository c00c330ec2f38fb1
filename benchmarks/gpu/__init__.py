"""`make gpu-check`: whatever this machine's GPU and libraries can run."""
