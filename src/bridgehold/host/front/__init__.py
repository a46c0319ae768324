"""Who asks, and what may run: the socket's door, principals, registry, orders. No byte of a guest's."""
