"""The wire of DSPex and Snakepit, without I/O: what existing callers and their own bridges speak."""
