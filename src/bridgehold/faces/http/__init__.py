"""The HTTP face: a process of its own, a client of the host's socket, nobody without a caller's token."""
