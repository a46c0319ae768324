"""How a sandbox begins: what it is bound from, its namespaces, its filter, and the cold start."""
