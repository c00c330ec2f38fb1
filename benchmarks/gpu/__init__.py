"""`make gpu-check`: run whatever this machine's GPU and libraries can run, each check in a process of its own."""
