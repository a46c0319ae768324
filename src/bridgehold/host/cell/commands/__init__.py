"""The life of a command: decided, written, run, written."""
