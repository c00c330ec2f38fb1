"""Variants to engines: chosen, compiled, checked, audited, stored."""
