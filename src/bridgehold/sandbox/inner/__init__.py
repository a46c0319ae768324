"""What runs inside a sandbox before any foreign code. Standard library and `bridgehold_sdk` only."""
