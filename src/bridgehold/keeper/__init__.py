"""The process that holds keys, speaks TLS with providers and signs anchors."""
