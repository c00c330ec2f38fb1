"""How time, noise and memory are measured, and what the machine reaches at most."""
