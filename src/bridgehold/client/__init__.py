"""The Python interface to a host: awaited, synchronous, private."""
