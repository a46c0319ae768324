"""Who asks, and what may run: the socket, principals, registry, orders. No byte of a guest's."""
