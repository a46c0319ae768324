"""What callers, guests and providers say: commands, sessions, workers, scripts, gateway, tools, artifacts."""
