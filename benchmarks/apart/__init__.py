"""A check in a process of its own: it may fail, crash or hang, and the others still run."""
