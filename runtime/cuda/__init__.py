"""CUDA memory, streams, events and graphs behind one small protocol."""
