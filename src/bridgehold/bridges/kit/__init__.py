"""Simulated outsiders for tests and demos: a model provider, a hub of models, an exfiltration sink."""
