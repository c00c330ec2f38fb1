"""The eager model: the export request, the reference, and parity with eager down to single blocks."""
