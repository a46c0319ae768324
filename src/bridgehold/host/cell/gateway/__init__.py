"""The way out of a sandbox: decided, recorded, without a key."""
