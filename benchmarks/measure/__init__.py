"""How time, noise and memory are measured, and the machine's peak rates."""
