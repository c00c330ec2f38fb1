"""The eager model: what is exported from it, the reference it gives, and parity with it down to blocks."""
