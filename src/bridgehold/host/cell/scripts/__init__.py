"""Scripts that speak a wire of their own, relayed and decided frame by frame."""
