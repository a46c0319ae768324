"""Proof from outside: what a worker is, and that what was laid down is what is run."""
