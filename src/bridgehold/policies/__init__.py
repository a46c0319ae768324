"""Is it allowed, and by which rule? Pure, except `load` and `files`, which read the operator's files."""
