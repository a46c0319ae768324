"""For bridge authors: a bridge from nothing or a script, its lock, its conformance, a loop to work in."""
