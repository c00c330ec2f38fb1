"""Which layers lose what, and which to suspect."""
